import numpy as np
import pytest
from builders import MODELS, SMALL, Mute, some_batch, some_images, tiny_model, trained

from pipeline.datasets.store import SPLITS, Split, Store, write
from pipeline.sampling import illustration


class Drawing(Mute):
    """Shows its seeds and its batch."""

    reconstruction_kind = "inverse"

    def reconstruct(self, images, labels):
        return 255 - images

    def illustrate(self, batch, seeds):
        assert len(seeds) == len(batch.images) == illustration.EXAMPLES
        return {"images": batch.images[None]}


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


def test_columns_show_one_class_each():
    images = some_images(30).numpy()
    labels = np.array([0, 1, 2] * 9 + [0, 0, 0])
    found = illustration.by_class(images, labels, 3)
    assert found.shape == (9, 3, *SMALL.shape)
    for row in range(9):
        np.testing.assert_array_equal(found[row], images[3 * row : 3 * row + 3])


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
        illustration.by_class(samples, drawn["labels"], 3),
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
