import pytest
import torch
from torch import nn

from pipeline.blocks.quantisation import Codebook


def random(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def codebook(codes=7, width=3, seed=5):
    """Of random vectors, all of which are used alike."""
    found = Codebook(codes, width).double()
    found.vectors.copy_(random(codes, width, seed=seed))
    found.share.fill_(1 / codes)
    found.sums.copy_(found.vectors / codes)
    return found


def revived(book, points, least=0.1, seed=0):
    return book.revive(points, least, torch.Generator().manual_seed(seed))


def test_points_are_rounded_to_the_nearest_code():
    book, points = codebook(), random(4, 5, 3)
    found = book.nearest(points)
    assert found.shape == (4, 5) and found.dtype == torch.int64
    for point, code in zip(points.flatten(0, 1), found.flatten(), strict=True):
        distances = [(point - vector).square().sum().item() for vector in book.vectors]
        assert distances[code] == min(distances)
    assert torch.equal(book(found), book.vectors[found])
    assert len(found.unique()) > 3


def test_of_equally_near_codes_the_first_is_taken():
    book = codebook(4, 1)
    book.vectors.copy_(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]))
    points = torch.tensor([[0.0], [2.0], [-2.0]], dtype=torch.float64)
    assert book.nearest(points).tolist() == [0, 0, 1]


def test_shares_and_sums_are_running_means_and_vectors_their_ratio():
    """Equations 6 to 8, point by point; a code that no point took stays where it is."""
    book, points = codebook(), random(20, 3, seed=1)
    codes = torch.arange(20) % 6
    share, sums, before = book.share.clone(), book.sums.clone(), book.vectors.clone()
    book.learn(points, codes, 0.9)
    for k in range(7):
        mine = [point for point, code in zip(points, codes, strict=True) if code == k]
        share[k] = 0.9 * share[k] + 0.1 * len(mine) / 20
        sums[k] = 0.9 * sums[k] + 0.1 * sum(mine, torch.zeros(3)) / 20
    torch.testing.assert_close(book.share, share)
    torch.testing.assert_close(book.sums, sums)
    torch.testing.assert_close(book.vectors, sums / share[:, None])
    torch.testing.assert_close(book.vectors[6], before[6])
    assert book.share.sum().item() == pytest.approx(1)


def test_without_a_memory_a_code_is_the_mean_of_its_points():
    book, points = codebook(3), random(12, 3, seed=1)
    codes = torch.arange(12) % 3
    book.learn(points, codes, 0.0)
    for k in range(3):
        torch.testing.assert_close(book.vectors[k], points[codes == k].mean(dim=0))


def test_a_code_that_is_never_taken_and_never_started_anew_stays_finite():
    book = codebook(2)
    before = book.vectors[1].clone()
    for _ in range(300):
        book.learn(random(4, 3), torch.zeros(4, dtype=torch.int64), 0.1)
    assert torch.isfinite(book.vectors).all()
    torch.testing.assert_close(book.vectors[1], before)


def test_dead_codes_come_back_where_points_are_and_the_others_stay():
    book, points = codebook(), random(30, 3, seed=2)
    book.share[2], book.share[5] = 0.09 / 7, 0.0
    before = book.vectors.clone()
    assert revived(book, points).item() == 2
    for k in range(7):
        if k not in (2, 5):
            assert torch.equal(book.vectors[k], before[k])
            continue
        assert (points == book.vectors[k]).all(dim=1).sum() == 1
        torch.testing.assert_close(book.share[k].item(), 1 / 7)
        torch.testing.assert_close(book.sums[k] / book.share[k], book.vectors[k])
    assert not torch.equal(book.vectors[2], book.vectors[5])
    assert revived(book, points).item() == 0


def test_a_codebook_starts_as_points_of_the_first_batch_all_different():
    book, points = Codebook(7, 3).double(), random(9, 3)
    assert revived(book, points).item() == 7
    assert (torch.cdist(book.vectors, points) < 1e-12).any(dim=1).all()
    assert len(book.vectors.unique(dim=0)) == 7


def test_with_fewer_points_than_codes_they_serve_again():
    book, points = Codebook(7, 3).double(), random(3, 3)
    revived(book, points)
    assert torch.equal(book.vectors.unique(dim=0), points.unique(dim=0))


def test_chances_are_those_of_squared_distances():
    """One dead code, points at distances 0, 1 and 3 from the others: chances 0, 1/10 and 9/10."""
    points = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    taken = []
    for seed in range(2000):
        book = Codebook(2, 1).double()
        book.share[0] = 0.5
        revived(book, points, seed=seed)
        taken.append(book.vectors[1].item())
    assert taken.count(0.0) == 0
    assert taken.count(1.0) / 2000 == pytest.approx(0.1, abs=0.04)  # six standard deviations


def test_the_generator_alone_decides_where_codes_start_anew():
    found = []
    for seed in (0, 0, 1):
        book = Codebook(7, 3).double()
        revived(book, random(30, 3), seed=seed)
        found.append(book.vectors)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


@pytest.mark.parametrize("restart", [0.0, 0.3])
def test_codes_that_are_all_in_one_place_come_apart_if_they_start_anew(restart):
    """Points in seven heaps, far away: what is left of their variance once they are rounded."""
    centres, rng = 10 * random(7, 3, seed=9), torch.Generator().manual_seed(0)
    book = codebook(28)
    book.vectors.fill_(1000)
    book.sums.copy_(book.vectors / 28)
    for step in range(60):
        points = centres.repeat(8, 1) + 0.01 * random(56, 3, seed=step)
        book.revive(points, restart, rng)
        book.learn(points, book.nearest(points), 0.8)
    left = (points - book(book.nearest(points))).square().mean()
    left /= (points - points.mean(dim=0)).square().mean()
    assert left < 0.01 if restart else left > 0.99


def test_everything_is_a_buffer():
    book = Codebook(7, 3)
    assert not list(book.parameters())
    assert book.state_dict().keys() == {"vectors", "share", "sums"}
    assert isinstance(book, nn.Module) and len(book) == 7
