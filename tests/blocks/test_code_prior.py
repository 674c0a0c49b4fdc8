from itertools import product

import pytest
import torch

from pipeline.blocks.code_prior import CodePrior
from pipeline.blocks.distributions import categorical_sample
from pipeline.blocks.transformer import Cache


def prior(height=3, width=4, codes=5, classes=0):
    """One whose logits say something, and the vectors of its codes."""
    torch.manual_seed(0)
    made = CodePrior(
        codes=codes,
        code_width=2,
        height=height,
        width=width,
        features=8,
        blocks=2,
        heads=2,
        classes=classes,
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made, torch.randn(codes, 2, dtype=torch.float64)


def some_codes(n, height=3, width=4, codes=5):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(codes, (n, height, width), generator=rng)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (1, 4), (4, 1)])
@torch.no_grad()
def test_the_probabilities_of_all_maps_add_up_to_one(height, width):
    made, vectors = prior(height, width, codes=3)
    every = torch.tensor(list(product(range(3), repeat=4))).view(-1, height, width)
    found = made.log_prob(every, vectors).flatten(1).sum(1).exp()
    assert found.sum().item() == pytest.approx(1)
    assert found.max() > 2 * found.min()


@torch.no_grad()
def test_a_code_is_given_all_before_it_and_none_after_it(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # what is far says little
    made, vectors = prior()
    codes = some_codes(1)
    before = made.log_prob(codes, vectors).flatten()
    for place in range(12):
        other = codes.clone()
        other.view(-1)[place] = (other.view(-1)[place] + 1) % 5
        changed = made.log_prob(other, vectors).flatten() != before
        assert not changed[:place].any()
        assert changed[place:].all()


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("start", [0, 2])
@torch.no_grad()
def test_draws_are_those_of_the_probabilities_code_by_code(classes, start):
    """Each code is the inversion of its variate under what `log_prob` says of all K choices."""
    made, vectors = prior(classes=classes)
    labels = torch.arange(6) % 3 if classes else None
    uniform = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = some_codes(6)
    drawn = made.fill(given.clone(), vectors, uniform, labels, start_row=start)
    assert torch.equal(drawn[:, :start], given[:, :start])
    for row, column in product(range(start, 3), range(4)):
        choices = []
        for code in range(5):
            tried = drawn.clone()
            tried[:, row, column] = code
            choices.append(made.log_prob(tried, vectors, labels)[:, row, column])
        logits = torch.stack(choices, dim=1)
        assert logits.exp().sum(dim=1).allclose(torch.ones(6))
        expected = categorical_sample(logits, uniform[:, row, column])
        assert torch.equal(drawn[:, row, column], expected)
    assert len(drawn.flatten(1).unique(dim=0)) > 3


@torch.no_grad()
def test_neighbours_are_in_the_token_of_a_position():
    """Without attention, only the code before and the three above are known."""
    made, vectors = prior()
    for block in made.blocks:
        block.attention_out.weight.zero_()
    codes = some_codes(1)
    before = made.log_prob(codes, vectors).flatten()
    for row, column in product(range(3), range(4)):
        other = codes.clone()
        other[0, row, column] = (other[0, row, column] + 1) % 5
        changed = (made.log_prob(other, vectors).flatten() != before).nonzero().flatten().tolist()
        place = 4 * row + column
        below = [place + 4 + right for right in (-1, 0, 1) if 0 <= column + right < 4]
        assert changed == sorted({i for i in (place, place + 1, *below) if i < 12})


@torch.no_grad()
def test_labels_count_where_there_are_classes_alone():
    made, vectors = prior(classes=3)
    codes = some_codes(2)
    before = made.log_prob(codes, vectors, torch.tensor([0, 1]))
    after = made.log_prob(codes, vectors, torch.tensor([0, 2]))
    assert torch.equal(before[0], after[0]) and (before[1] != after[1]).all()
    made, vectors = prior()
    assert torch.equal(
        made.log_prob(codes, vectors, torch.tensor([0, 1])), made.log_prob(codes, vectors)
    )


def test_logits_are_float32_at_least():
    made, vectors = prior()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert made.float()(torch.zeros(1, 2, 8), None, Cache()).dtype == torch.float32
        assert made.log_prob(some_codes(1), vectors.float()).dtype == torch.float32
