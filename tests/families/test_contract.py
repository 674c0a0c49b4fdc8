import re
import sys

import pytest
import torch
from builders import (
    COLOUR,
    FACTS,
    MODELS,
    SMALL,
    sampled,
    scored,
    some_batch,
    some_images,
    tiny_model,
    tiny_params,
    trained,
)

from pipeline import families
from pipeline.core import seeds
from pipeline.core.batches import in_batches
from pipeline.core.contract import (
    Family,
    HasLikelihood,
    Reconstructs,
    Samples,
    TrainingParams,
    Translates,
    on_paper,
)
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec
from pipeline.models import weights

FAMILY = pytest.mark.parametrize("name", families.names())
EVERY = pytest.mark.parametrize("name", [f"models.{model}" for model in MODELS])
SHAPES = [ImageSpec(1, 28, 28, 10), ImageSpec(3, 32, 32, 10), ImageSpec(1, 20, 24, 2)]
CPU = torch.device("cpu")


def every(n, name="sample"):
    return seeds.image_seeds(n, 0, name)


def within_a_level(one, other):
    return (one.int() - other.int()).abs().max() <= 1


@FAMILY
def test_class_declares_its_hyperparameters(name):
    family = families.load(name)
    assert issubclass(family, Family)
    assert issubclass(family.Training, TrainingParams)


@FAMILY
def test_docstring_is_headed_by_papers(name):
    text = sys.modules[families.load(name).__module__].__doc__
    assert re.search(r"^- \w+: .*?arXiv:\d{4}\.\d{4,5}", text, re.MULTILINE | re.DOTALL)


@EVERY
@pytest.mark.parametrize("spec", SHAPES, ids=lambda spec: "x".join(map(str, spec.shape)))
def test_any_shape_trains_samples_and_scores_or_says_why_not(name, spec):
    try:
        model = tiny_model(name, spec)
    except PipelineError as error:
        assert f"models.{tiny_params(name).name}." in str(error)
        return
    before = [p.detach().clone() for p in model.parameters()]
    trained(model, steps=2)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    images = some_images(2, spec)
    if isinstance(model, Samples):
        found = sampled(model, every(2))
        assert found.shape == (2, *spec.shape) and found.dtype == torch.uint8
    if isinstance(model, HasLikelihood):
        found = scored(model, images, every(2))
        assert found.nats.shape == (2,) and torch.isfinite(found.nats).all()
    if isinstance(model, Reconstructs):
        labels = every(2) % spec.classes
        rebuilt = model.reconstruct(images, labels if model.conditional else None)
        assert rebuilt.shape == images.shape and rebuilt.dtype == torch.uint8
    if isinstance(model, Translates):
        for direction in ("ab", "ba"):
            translated = model.translate(images, direction)
            assert translated.shape == images.shape and translated.dtype == torch.uint8


@EVERY
@pytest.mark.parametrize("spec", [SMALL, COLOUR], ids=["grey", "colour"])
def test_every_parameter_is_trained(name, spec):
    model = tiny_model(name, spec)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    trained(model, steps=3)
    still = [key for key, value in model.named_parameters() if torch.equal(value, before[key])]
    assert not still


@EVERY
def test_groups_hold_each_parameter_once(name):
    model = tiny_model(name)
    held = [p for group in model.groups().values() for p in group.parameters]
    assert len({id(p) for p in held}) == len(held)
    assert {id(p) for p in held} <= {id(p) for p in model.parameters()}


@EVERY
def test_logged_terms_are_named_by_group_and_detached(name):
    model = tiny_model(name)
    rng = torch.Generator().manual_seed(0)
    terms = model.training_step(some_batch(model), lambda *_: None, rng)
    assert terms
    for key, value in terms.items():
        group, _, term = key.partition("/")
        assert group in model.groups() and term
        assert value.shape == () and not value.requires_grad


@EVERY
def test_initial_weights_depend_on_the_seed_alone(name):
    torch.manual_seed(5)
    one = tiny_model(name, seed=1).state_dict()
    torch.manual_seed(6)
    same, other = tiny_model(name, seed=1).state_dict(), tiny_model(name, seed=2).state_dict()
    assert all(torch.equal(value, same[key]) for key, value in one.items())
    assert any(not torch.equal(value, other[key]) for key, value in one.items())


@EVERY
@pytest.mark.parametrize("spec", [SMALL, COLOUR], ids=["grey", "colour"])
def test_a_model_on_paper_is_the_real_one_without_its_values(name, spec):
    params = tiny_params(name)
    real = tiny_model(name, spec)
    torch.manual_seed(0)
    found = on_paper(families.load(params.family), spec, params)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1)), "it draws weights"
    for one, other in (
        (dict(found.named_parameters()), dict(real.named_parameters())),
        (dict(found.named_buffers()), dict(real.named_buffers())),
    ):
        assert {key: (each.shape, each.dtype) for key, each in one.items()} == {
            key: (each.shape, each.dtype) for key, each in other.items()
        }
    assert all(each.is_meta for each in found.parameters())


@EVERY
def test_saved_weights_give_identical_images_and_scores(name, tmp_path):
    model = trained(tiny_model(name))
    weights.save(tmp_path / "model", model, FACTS)
    loaded, facts = weights.load(tmp_path / "model", tiny_params(name), SMALL, CPU)
    assert facts == FACTS
    assert not loaded.training
    if isinstance(model, Samples):
        assert torch.equal(sampled(model, every(4)), sampled(loaded, every(4)))
    if isinstance(model, HasLikelihood):
        one, other = (scored(m, some_images(4), every(4)) for m in (model, loaded))
        assert torch.equal(one.nats, other.nats)


@EVERY
def test_weights_that_do_not_fit_are_refused(name, tmp_path):
    weights.save(tmp_path / "model", tiny_model(name), FACTS)
    with pytest.raises(PipelineError, match="does not fit"):
        weights.load(tmp_path / "model", tiny_params(name), ImageSpec(2, 12, 12, 10), CPU)


@EVERY
def test_sampling_and_scoring_need_no_other_block(name):
    """Each stage depends on its own block only, so the others are absent there."""
    sampler = trained(tiny_model(name))
    if isinstance(sampler, Samples):
        sampler.params = tiny_params(name, training=None, scoring=None)
        sampled(sampler, every(2))
    tiny_model(name, training=None, scoring=None)
    scorer = tiny_model(name, training=None, sampling=None).eval()
    if isinstance(scorer, HasLikelihood):
        scored(scorer, some_images(2), every(2))


def able(method):
    return [
        f"models.{model}"
        for model, entry in MODELS.items()
        if hasattr(families.load(entry["family"]), method)
    ]


@pytest.mark.parametrize("name", able("sample"))
def test_an_image_does_not_depend_on_its_batch(name):
    model = trained(tiny_model(name, COLOUR))
    together = sampled(model, every(6))
    alone = torch.cat([sampled(model, each) for each in every(6).split(1)])
    assert within_a_level(together, alone)
    shuffled = torch.tensor([3, 0, 5, 1, 4, 2])
    assert within_a_level(sampled(model, every(6)[shuffled]), together[shuffled])


@pytest.mark.parametrize("name", able("sample"))
def test_images_differ_with_their_seeds_and_repeat_with_them(name):
    model = trained(tiny_model(name), steps=20)
    found = sampled(model, every(4))
    assert found.dtype == torch.uint8
    assert torch.equal(found, sampled(model, every(4)))
    assert len({image.numpy().tobytes() for image in found}) == 4


@pytest.mark.parametrize("name", able("sample"))
def test_sampling_leaves_weights_and_the_global_generator_alone(name):
    model = trained(tiny_model(name))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(0)
    sampled(model, every(4))
    drawn = torch.rand(1)
    torch.manual_seed(0)
    assert torch.equal(drawn, torch.rand(1))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", able("log_likelihood"))
def test_a_likelihood_does_not_depend_on_the_batch(name):
    model, images = trained(tiny_model(name, COLOUR)), some_images(5, COLOUR)
    together = scored(model, images, every(5)).nats
    alone = torch.cat(
        [scored(model, images[i : i + 1], every(5)[i : i + 1]).nats for i in range(5)]
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("name", able("log_likelihood"))
def test_terms_of_a_likelihood_add_up(name):
    found = scored(trained(tiny_model(name)), some_images(3), every(3))
    if found.terms:
        torch.testing.assert_close(sum(found.terms.values()), found.nats)
    else:
        assert found.bound == "exact"


@pytest.mark.parametrize("name", able("log_likelihood"))
def test_a_likelihood_is_no_higher_than_a_distribution_allows(name):
    """No model knows random images: 8 bits/dim is the least that they cost on average."""
    images = some_images(16, seed=7)
    found = scored(tiny_model(name).eval(), images, every(16))
    bits = -found.nats.mean().item() / (SMALL.dimensions * 0.6931471805599453)
    assert bits > 7.5


@pytest.mark.parametrize(("n", "size"), [(1, 4), (4, 4), (5, 4), (11, 3), (3, 100)])
def test_batches_have_one_size_and_cover_everything_once(n, size):
    covered = []
    for index, real in in_batches(n, size):
        assert len(index) == size
        assert (index[real:] == n - 1).all()
        covered += index[:real].tolist()
    assert covered == list(range(n))
