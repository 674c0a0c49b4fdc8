"""What is its own; what it shares with its like is in test_autoregressive.py."""

import pytest
import torch
from builders import SMALL, some_batch, some_images, some_labels, tiny_model, trainer

from pipeline.core import seeds
from pipeline.core.errors import PipelineError
from pipeline.core.images import ImageSpec

GREY = ImageSpec(1, 7, 6, 10)
COLOUR = ImageSpec(3, 5, 4, 10)
CONDITIONAL = {"network": {"conditional": True}}
PIECES = [[6], [1] * 6, [2, 1, 3], [5, 1]]


def every(n):
    return seeds.image_seeds(n, 0, "sample")


def some_tokens(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("pieces", PIECES, ids=str)
@torch.no_grad()
def test_reading_in_pieces_is_reading_in_one_go(pieces, conditional):
    model = tiny_model("gpt", GREY, network={"conditional": conditional}).double()
    tokens, labels = some_tokens(3, 6, model.token), torch.tensor([4, 0, 9])
    expected, _ = model.read(tokens, labels)
    state, found = None, []
    for piece in tokens.split(pieces, dim=1):
        known, state = model.read(piece, labels, state)
        found.append(known)
    torch.testing.assert_close(torch.cat(found, dim=1), expected)


@torch.no_grad()
def test_equal_rows_are_told_apart_by_their_place():
    model = tiny_model("gpt", GREY)
    known, _ = model.read(torch.ones(1, 6, model.token), None)
    assert torch.cdist(known[0], known[0]).fill_diagonal_(1).min() > 1e-4


@torch.no_grad()
def test_the_label_token_changes_every_pixel_and_only_its_own_image():
    model, images = tiny_model("gpt", COLOUR, **CONDITIONAL), some_images(2, COLOUR)
    before = model.log_prob(images, torch.tensor([3, 5]))
    after = model.log_prob(images, torch.tensor([3, 6]))
    assert torch.equal(before[0], after[0])
    assert (before[1] != after[1]).float().mean() > 0.95
    assert before[1, 0, 0, 0] != after[1, 0, 0, 0]


@torch.no_grad()
def test_without_a_label_token_labels_change_nothing():
    model, images = tiny_model("gpt", COLOUR), some_images(2, COLOUR)
    assert not model.conditional
    expected = model.log_prob(images)
    assert torch.equal(model.log_prob(images, torch.tensor([3, 5])), expected)


@torch.no_grad()
def test_a_conditional_sample_is_that_of_its_label_and_seed():
    model = tiny_model("gpt", SMALL, **CONDITIONAL).eval()
    assert model.conditional
    model.start.weight.mul_(50)
    model.known.weight.mul_(10)
    labels = some_labels(6)
    together = model.sample(every(6), labels)
    for i in range(6):
        assert torch.equal(
            model.sample(every(6)[i : i + 1], labels[i : i + 1]), together[i : i + 1]
        )
    other = model.sample(every(6), (labels + 1) % 10)
    assert all(not torch.equal(*pair) for pair in zip(together, other, strict=True))


@torch.no_grad()
def test_completions_are_of_the_images_labels():
    model, batch = tiny_model("gpt", SMALL, **CONDITIONAL).eval(), some_batch(tiny_model("gpt"), 10)
    noise = seeds.ImageNoise(every(10)).uniform(4, 1, 2, 8, 8)
    expected = [
        model.fill(batch.images.clone(), noise[:, k], batch.labels, start_row=4) for k in range(4)
    ]
    found = model.illustrate(batch, every(10))["completions"]
    assert torch.equal(found[2:], torch.stack(expected))


def test_a_conditional_model_learns_what_the_labels_say():
    """Images of one level each: the label says which."""
    model = tiny_model("gpt", SMALL, **{**CONDITIONAL, "training": {"learning_rate": 0.01}})
    before = model.start.weight.detach().clone()
    one = trainer(model, steps=60)
    one.images = (one.labels * 25).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    one.run()
    assert (model.start.weight != before).any(dim=1).all()
    images, labels = one.images[:10], one.labels[:10]
    right = model.log_likelihood(images, labels, every(10)).nats
    wrong = model.log_likelihood(images, (labels + 5) % 10, every(10)).nats
    assert (right > wrong).all()


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(PipelineError, match=r"models\.tiny_gpt\.network\.attention_heads = 3"):
        tiny_model("gpt", network={"attention_heads": 3})
