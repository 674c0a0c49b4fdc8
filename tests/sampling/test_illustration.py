from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import MODELS, SMALL, Mute, some_batch, some_images, tiny_model, trained

from pipeline.datasets.store import SPLITS, Split, Store, write
from pipeline.sampling import illustration, pictures


class Drawing(Mute):
    """Shows its seeds and its batch."""

    reconstruction_kind = "inverse"

    def reconstruct(self, images, labels):
        return 255 - images

    def illustrate(self, batch, seeds):
        assert len(seeds) == len(batch.images) == illustration.EXAMPLES
        return {"images": batch.images[None]}


class Inverse(Mute):
    reconstruction_kind = "inverse"

    def reconstruct(self, images, labels):
        assert len(images) == illustration.EXAMPLES
        return 255 - images


class Wrong(Mute):
    def illustrate(self, batch, seeds):
        return {"bad": batch.images.float()[None]}


def split_of(labels, **more):
    images = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(8, 2).repeat(8, 3)
    return Split(images, np.array(labels), **more)


def test_examples_show_each_class_in_turn():
    batch = illustration.examples(split_of([2, 2, 0, 0, 1, 2, 0, 1, 2, 1, 0, 0]), 3)
    assert batch.labels.tolist() == [0, 1, 2] * 3 + [0]
    assert batch.images[:, 0, 0, 0].tolist() == [2, 4, 0, 3, 7, 1, 6, 9, 5, 10]
    assert batch.others is None


def test_examples_of_few_images_repeat_the_last():
    batch = illustration.examples(split_of([1, 0, 0]), 2)
    assert batch.images[:, 0, 0, 0].tolist() == [1, 0] + [2] * 8


def test_examples_of_two_domains_hold_both():
    split = split_of([0] * 12, others=some_images(12).numpy(), other_labels=np.arange(12) % 4)
    batch = illustration.examples(split, 4)
    first = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(batch.others, split.others[first])


class Classes(Mute):
    """A picture of one class per column, three rows of it."""

    def illustrate(self, batch, seeds):
        columns = torch.arange(self.spec.classes, dtype=torch.uint8)[None, :, None, None, None]
        return {"classes": columns.expand(10, -1, *self.spec.shape).clone()}


def test_pictures_of_many_classes_go_on_in_the_next_rows():
    family = Classes()
    for classes, shape in ((3, (10, 3)), (12, (10, 12)), (13, (10, 12)), (26, (9, 12))):
        family.spec = replace(SMALL, classes=classes)
        found = illustration.pictures(family, some_batch(family, 10), 0)["classes"]
        assert found.shape[:2] == shape
        lines = found.reshape(-1, *SMALL.shape)[:, 0, 0, 0]
        assert lines[:classes].tolist() == list(range(classes))
    assert (lines[26:36] == pictures.PAPER).all() and lines[36] == 0
    family.spec = replace(SMALL, classes=130)
    assert illustration.pictures(family, some_batch(family, 10), 0)["classes"].shape[:2] == (11, 12)


def test_reconstructions_show_every_class(tmp_path):
    split = split_of([i % 26 for i in range(52)])
    write(tmp_path / "set", "toy", list(map(str, range(26))), dict.fromkeys(SPLITS, split))
    found = illustration.everything(Inverse(), Store(tmp_path / "set"), {}, 0)["reconstructions"]
    assert found.shape[:2] == (6, 10)
    originals = found[::2].reshape(-1, *SMALL.shape)
    assert originals[:, 0, 0, 0].tolist() == [*range(26), *range(26, 30)]
    np.testing.assert_array_equal(found[1::2], 255 - found[::2])


def test_samples_are_shown_as_they_were_drawn_or_by_class(tmp_path):
    parts = dict.fromkeys(SPLITS, split_of([0, 1, 2] * 4))
    write(tmp_path / "set", "toy", list("abc"), parts)
    store, samples = Store(tmp_path / "set"), some_images(57).numpy()
    found = illustration.everything(Drawing(), store, {"samples": samples}, 0)
    assert found.keys() == {"samples", "reconstructions", "images"}
    np.testing.assert_array_equal(found["samples"].reshape(50, *SMALL.shape), samples[:50])
    assert found["samples"].shape[:2] == (5, illustration.EXAMPLES)
    drawn = {"samples": samples, "labels": np.arange(57) % 3}
    np.testing.assert_array_equal(
        illustration.everything(Drawing(), store, drawn, 0)["samples"],
        pictures.by_class(samples, drawn["labels"], 3, columns=10, lines=10),
    )
    assert illustration.everything(Mute(), store, {}, 0) == {}


def test_reconstructions_stand_below_their_originals():
    batch = some_batch(Drawing(), 10)
    found = illustration.pictures(Drawing(), batch, 0)
    assert found.keys() == {"reconstructions", "images"}
    np.testing.assert_array_equal(found["reconstructions"][0], batch.images)
    np.testing.assert_array_equal(found["reconstructions"][1], 255 - batch.images)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ValueError, match="bad must be uint8"):
        illustration.pictures(Wrong(), some_batch(Wrong(), 10), 0)


@pytest.mark.parametrize("model", list(MODELS))
def test_every_model_has_pictures_that_fit_a_page_and_repeat(model):
    family = trained(tiny_model(f"models.{model}"), steps=2)
    batch = some_batch(family, 10)
    found = illustration.pictures(family, batch, 0)
    again = illustration.pictures(family, batch, 0)
    assert found
    for name, picture in found.items():
        rows, columns = picture.shape[:2]
        assert 1 <= rows <= 10 and 1 <= columns <= 12, name
        assert picture.dtype == np.uint8 and picture.shape[2:] == SMALL.shape
        np.testing.assert_array_equal(picture, again[name])
