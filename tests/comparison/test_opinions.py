import re
from pathlib import Path

import numpy as np
import pytest
from compared import verdict
from scipy.stats import spearmanr

from pipeline.comparison import opinions
from pipeline.comparison.collect import FAILED, OK
from pipeline.core.errors import PipelineError

REFERENCE = {"second_features": "label-free-64x3"}
FILE = Path("reference.json")


def rows(*fids):
    return [
        {"kind": "model", "status": OK, "model": name, "fid": first, "second_fid": second}
        for name, first, second in fids
    ]


AGREED = rows(("a", 1.0, 5.0), ("b", 2.0, 6.0), ("c", 3.0, 9.0), ("d", 4.0, 8.0))
TURNED = rows(("a", 1.0, 9.0), ("b", 2.0, 3.0), ("c", 3.0, 4.0), ("d", 4.0, 5.0))


def test_kinds_that_agree_by_and_large_need_no_words():
    assert opinions.disagreement(AGREED, REFERENCE) == ""
    assert opinions.disagreement(AGREED[:1], REFERENCE) == ""


def test_models_that_the_other_kind_places_elsewhere_are_named_with_both_places():
    said = opinions.disagreement(TURNED, REFERENCE)
    assert "by second FID (label-free-64x3) a is 4th, not 1st." in said
    expected = spearmanr([1, 2, 3, 4], [9, 3, 4, 5])[0]
    assert f"correlation is {expected:.2f} over 4 models" in said
    assert "\n" not in said


def test_the_farthest_come_first_and_not_all_are_named():
    n = 12
    turned = rows(*((f"m{i}", float(i), float(n - i)) for i in range(n)))
    said = opinions.disagreement(turned, REFERENCE)
    named = re.findall(r"(m\d+) is (\d+)[a-z]+, not (\d+)", said)
    moves = [abs(int(a) - int(b)) for _, a, b in named]
    assert len(named) == opinions.NAMED and moves == sorted(moves, reverse=True) and moves[0] == 11
    moved = sum(abs(n - 1 - 2 * i) >= opinions.APART for i in range(n))
    assert f"and {moved - len(named)} more by 3 places or more" in said


def test_who_was_not_judged_by_both_has_no_place():
    more = [
        {**TURNED[0], "model": "failed", "status": FAILED, "fid": 0.1},
        {**TURNED[0], "model": "real", "kind": "reference", "fid": 0.2},
        {**TURNED[0], "model": "one", "second_fid": None, "fid": 0.3},
    ]
    assert opinions.disagreement(TURNED + more, REFERENCE) == opinions.disagreement(
        TURNED, REFERENCE
    )


@pytest.mark.parametrize(
    ("place", "told"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (22, "22nd")]
)
def test_places_are_said_as_people_do(place, told):
    assert opinions.ordinal(place) == told


def test_spearman_is_that_of_scipy():
    one, other = np.random.default_rng(0).normal(size=(2, 9))
    assert opinions.spearman(one, other) == pytest.approx(spearmanr(one, other)[0])


def test_the_evidence_shows_both_kinds_beside_each_other():
    found = verdict(second=[])
    other = {"real": [0.5, 0.5], "some": [0.3, 0.9], "much": [9.0, 1.0]}
    rungs = [{**each, "fid": other[each["label"]]} for each in found["kinds"][0]["rungs"]]
    found["kinds"][1] |= {"rungs": rungs, "accuracy": [None, None]}
    text = opinions.evidence({"judges": found}, FILE)
    assert "| classifiers | 98.0 to 99.0 % | 4 of 4 | 7.1x, much |" in text
    # Of the other kind one judge of two has both steps in order, the other one neither.
    assert "| judges without labels | no labels | 3 of 4 | 6.0x, much |" in text
    assert "| much | 3.87 (3.00 to 5.00), 7.1x | 3.00 (1.00 to 9.00), 6.0x |" in text
    assert "| real | 0.55 (0.50 to 0.60) | 0.50 (0.50 to 0.50) |" in text
    assert "over damage: 1.00." in text


def test_without_evidence_one_line_says_how_it_is_made():
    with pytest.raises(PipelineError, match=r"reference.json: .* `make repro` measures"):
        opinions.evidence({}, FILE)
