import numpy as np
import psutil
import pytest
from builders import (
    MODELS,
    Stub,
    assert_same_training,
    some_batch,
    some_labels,
    tiny_model,
    trainer,
)

from pipeline.core.mapped import Mapped
from pipeline.training.trainer import Trainer


def on_disk(path, array):
    np.save(path, array)
    return np.load(path, mmap_mode="r")


@pytest.mark.parametrize("model", MODELS)
def test_a_training_from_the_disk_is_that_from_memory(model, tmp_path):
    family = tiny_model(f"models.{model}")
    batch = some_batch(family, 32)
    others = batch.others
    if others is not None:
        others = Mapped(on_disk(tmp_path / "others.npy", others.numpy()))
    images = Mapped(on_disk(tmp_path / "images.npy", batch.images.numpy()))
    one = Trainer(family, images, batch.labels, others=others, seed=0, steps=5)
    other = trainer(tiny_model(f"models.{model}"), steps=5)
    one.run()
    other.run()
    assert_same_training(one, other)


def test_no_more_is_read_than_batches_hold(tmp_path):
    """Of 13 GB, which lie on no disk either."""
    n, shape = 200_000, (1, 256, 256)
    images = np.memmap(tmp_path / "images", np.uint8, "w+", shape=(n, *shape))
    before = psutil.Process().memory_info().rss
    Trainer(Stub(), Mapped(images), some_labels(n), seed=0, steps=20).run()
    # The order is 8 bytes for each image; the batches seen are 10 MB.
    assert psutil.Process().memory_info().rss - before < 1e8
