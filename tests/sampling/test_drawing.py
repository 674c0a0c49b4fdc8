import numpy as np
import pytest
import torch
from builders import MODELS, SMALL, Mute, Painting, some_images, tiny_model, trained

from pipeline.core import arrays, params, seeds
from pipeline.core.errors import PipelineError
from pipeline.datasets import store
from pipeline.sampling import drawing


class Obeying(Mute):
    """Images of the colour of their label."""

    conditional = True

    def sample(self, seeds, labels):
        return labels.to(torch.uint8)[:, None, None, None].expand(-1, *SMALL.shape)


class Floating(Mute):
    def sample(self, seeds, labels):
        return torch.zeros(len(seeds), *SMALL.shape)


class Inverting(Mute):
    def translate(self, images, direction):
        self.calls.append((direction, len(images)))
        return 255 - images if direction == "ab" else images // 2


@pytest.fixture
def data(tmp_path):
    """A data set with two domains, whose classes 0, 1 and 2 have 6, 3 and 1 training images."""
    labels = np.array([0] * 6 + [1] * 3 + [2])
    images = some_images(10).numpy()
    part = store.Split(images, labels, others=images[:7], other_labels=labels[:7])
    store.write(tmp_path / "set", "toy", list("abc"), dict.fromkeys(store.SPLITS, part), ["A", "B"])
    return store.Store(tmp_path / "set")


class Multiplying(Mute):
    """A product of 3 x 5 by 5 x 7 numbers for each image that is drawn."""

    network_evaluations = 4

    def sample(self, seeds, labels):
        torch.zeros(3 * len(seeds), 5) @ torch.zeros(5, 7)
        return torch.zeros(len(seeds), *SMALL.shape, dtype=torch.uint8)


class Translating(Mute):
    """As many products as the direction says, for each image."""

    def translate(self, images, direction):
        for _ in range({"ab": 1, "ba": 3}[direction]):
            torch.zeros(3 * len(images), 5) @ torch.zeros(5, 7)
        return images


def test_cost_is_that_of_one_image_whatever_is_drawn(data):
    one = 2 * 3 * 5 * 7
    assert drawing.cost_of(Multiplying(), data) == {
        "sampling_flops": one,
        "network_evaluations": 4,
    }
    assert drawing.cost_of(Translating(), data)["sampling_flops"] == 2 * one
    assert drawing.cost_of(Mute(), data) == {}


@pytest.mark.parametrize("name", [f"models.{model}" for model in MODELS])
def test_every_model_has_a_cost_that_repeats(name, data):
    model = trained(tiny_model(name))
    found = drawing.cost_of(model, data)
    assert found["sampling_flops"] > 0
    assert found["network_evaluations"] >= 1
    assert drawing.cost_of(model, data) == found


@pytest.mark.parametrize("batch", [1, 4, 10, 64])
def test_drawn_images_follow_their_seeds_for_any_batch(batch):
    drawn = drawing.draw(Painting(), 10, seed=3, batch=batch)
    expected = seeds.image_seeds(10, 3, "sample") % 256
    assert drawn.dtype == np.uint8 and drawn.shape == (10, *SMALL.shape)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], expected)


def test_drawing_refuses_what_is_no_image():
    with pytest.raises(TypeError, match="does not sample"):
        drawing.draw(Mute(), 4, seed=0, batch=2)
    with pytest.raises(ValueError, match="must be uint8"):
        drawing.draw(Floating(), 4, seed=0, batch=2)


def test_labels_of_equal_classes_take_turns():
    assert drawing.balanced_labels(23, np.full(10, 360)).tolist() == [*range(10)] * 2 + [0, 1, 2]


@pytest.mark.parametrize("counts", [[6, 3, 1], [1, 0, 5], [1000, 1], [7, 7, 7, 2]])
def test_labels_have_the_shares_of_the_classes_whatever_their_number(counts):
    shares = np.array(counts) / sum(counts)
    for n in (1, 10, 99, 1000):
        labels = drawing.balanced_labels(n, np.array(counts))
        found = np.bincount(labels, minlength=len(counts))
        assert (np.abs(found - n * shares) < 1.5).all()
        np.testing.assert_array_equal(labels, drawing.balanced_labels(2000, np.array(counts))[:n])


def test_a_rare_class_waits_until_half_an_image_is_its_share():
    labels = drawing.balanced_labels(600, np.array([1000, 1]))
    assert np.flatnonzero(labels == 1).tolist() == [500]


def test_labels_need_a_class_that_has_images():
    with pytest.raises(ValueError, match="no class has an image"):
        drawing.balanced_labels(3, np.zeros(4))


@pytest.mark.parametrize("batch", [1, 4, 64])
def test_each_image_is_given_its_label(batch):
    labels = np.arange(10)[::-1].copy()
    drawn = drawing.draw(Obeying(), 10, seed=0, batch=batch, labels=labels)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], labels)


def test_labels_are_for_conditional_models_and_for_no_other():
    with pytest.raises(ValueError, match="labels are for conditional models"):
        drawing.draw(Painting(), 4, seed=0, batch=2, labels=np.arange(4))
    with pytest.raises(ValueError, match="labels are for conditional models"):
        drawing.draw(Obeying(), 4, seed=0, batch=2)


def test_what_a_model_gives_depends_on_what_it_can_do(data):
    section = params.Sample(n="auto", seed=0, batch=4)
    assert drawing.everything(Painting(), data, section, 10).keys() == {"samples"}
    found = drawing.everything(Obeying(), data, section, 10)
    assert np.bincount(found["labels"]).tolist() == [6, 3, 1]
    np.testing.assert_array_equal(found["samples"][:, 0, 0, 0], found["labels"])
    assert drawing.everything(Mute(), data, section, 10) == {}


def test_a_translator_gives_the_test_images_of_either_domain_as_of_the_other(data):
    model, test = Inverting(), data.split("test")
    found = drawing.everything(model, data, params.Sample(seed=0, batch=4), 10)
    assert found.keys() == {"a_to_b", "b_to_a"}
    np.testing.assert_array_equal(found["a_to_b"], 255 - test.images)
    np.testing.assert_array_equal(found["b_to_a"], test.others // 2)
    assert set(model.calls) == {("ab", 4), ("ba", 4)}


REMEDY = "the next run restores or draws it again"


@pytest.fixture
def drawn(tmp_path):
    """A conditional family, the folder of its samples, and what they are."""
    family = trained(tiny_model("models.cgan"), steps=1)
    labels = np.arange(6) % 10
    made = {"labels": labels, "samples": drawing.draw(family, 6, seed=0, batch=6, labels=labels)}
    arrays.save(tmp_path, made)
    return family, tmp_path, made


def test_samples_are_read_as_they_were_drawn(drawn):
    family, folder, made = drawn
    found = drawing.read(folder, family, 6)
    assert found.keys() == made.keys()
    for name, array in made.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("name", ["samples", "labels"])
def test_what_a_family_can_draw_must_be_there(drawn, name):
    family, folder, made = drawn
    (folder / f"{name}.npy").unlink()
    with pytest.raises(PipelineError, match=rf"{name}\.npy: no such file; .*{REMEDY}"):
        drawing.read(folder, family, 6)
    arrays.save(folder, {k: v for k, v in made.items() if k != name})
    with pytest.raises(PipelineError, match=rf"{name}\.npy: missing; .*{REMEDY}"):
        drawing.read(folder, family, 6)


def test_samples_of_another_number_or_shape_are_refused(drawn):
    family, folder, made = drawn
    with pytest.raises(PipelineError, match=r"samples\.npy: shape .* should be \[7, 1, 8, 8\]"):
        drawing.read(folder, family, 7)
    arrays.save(folder, {**made, "samples": made["samples"].astype(np.float32)})
    with pytest.raises(PipelineError, match=r"samples\.npy: float32 values, but they should be"):
        drawing.read(folder, family, 6)
    arrays.save(folder, {**made, "labels": made["labels"][:5]})
    with pytest.raises(PipelineError, match=r"labels\.npy: shape \[5\], but it should be \[6\]"):
        drawing.read(folder, family, 6)


def test_a_broken_cost_is_one_line(tmp_path):
    with pytest.raises(PipelineError, match=r"cost\.json: no such file"):
        drawing.read_cost(tmp_path, Painting())
    (tmp_path / "cost.json").write_text("{}")
    assert drawing.read_cost(tmp_path, Mute()) == {}
    with pytest.raises(PipelineError, match=r"cost\.json: sampling_flops: missing"):
        drawing.read_cost(tmp_path, Painting())
    (tmp_path / "cost.json").write_text('{"sampling_flops": "many", "network_evaluations": 1}')
    with pytest.raises(PipelineError, match=r"cost\.json: sampling_flops = 'many': should be"):
        drawing.read_cost(tmp_path, Painting())
    (tmp_path / "cost.json").write_text('{"sampling_flops": 5, "network_evaluations": 1}')
    assert drawing.read_cost(tmp_path, Painting()) == {
        "sampling_flops": 5,
        "network_evaluations": 1,
    }
