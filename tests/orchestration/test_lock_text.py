import copy
import datetime
import string
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.orchestration import lock_text

ROOT = Path(__file__).parents[2]
COMMITTED = (ROOT / "dvc.lock").read_text()
SMALL = COMMITTED[: COMMITTED.index("  evaluate@")]
EXAMPLES = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NAMES = st.text(string.ascii_letters + "@_-.0123456789 '\"#é\u2028", max_size=200)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    # Subnormal numbers are 0 in a process in which a test of torch has had them flushed.
    st.floats(allow_nan=False, allow_subnormal=False),
    st.dates(),
    st.text(max_size=120),
    st.text("ab \n:#-'\"&*|>\t\r\x85{}[],", max_size=200),
)
VALUES = st.recursive(
    SCALARS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(NAMES, each, max_size=3),
    max_leaves=8,
)
LOCKS = st.dictionaries(NAMES, VALUES, min_size=1, max_size=5).map(
    lambda stages: {"schema": "2.0", "stages": stages}
)
PIECES = (
    *(
        "\n",
        "  a:\n",
        "  - 1\n",
        "---\n",
        "...\n",
        "'",
        " ",
        "# x\n",
        "\u2028",
        "\t",
        "  ? f\n",
        "  ",
    ),
    *("  b: &x {c: 1}\n", "  d: *x\n", "  e: |+\n\n", "  f: [\n", "  1: 2\n", "  <<: {g: 1}\n"),
)


def parsed(text):
    return YAML(typ="safe").load(text)


def strictly(value):
    """Equal for values that are equal with their types and orders alone."""
    return repr(value)


@EXAMPLES
@given(LOCKS, st.data())
def test_what_is_written_is_what_the_whole_is_written_as(lock, data):
    """Also after some stages changed, came and went, of which the writer remembers the others."""
    kept = lock_text.LockText()
    for _ in range(3):
        assert kept.dump(lock) == lock_text.dumped(lock)
        read = kept.load(kept.dump(lock))
        assert strictly(read) == strictly(parsed(lock_text.dumped(lock)))
        lock = read
        lock["stages"][data.draw(NAMES)] = data.draw(VALUES)
        if len(lock["stages"]) > 2:
            lock["stages"].pop(data.draw(st.sampled_from(sorted(lock["stages"]))))


@EXAMPLES
@given(LOCKS, st.data())
def test_any_text_means_what_a_parser_says_or_is_refused_by_both(lock, data):
    """As by hand, or by a merge: pieces of one file in another, or in another place."""
    text = lock_text.dumped(lock)
    for _ in range(data.draw(st.integers(1, 3))):
        first, last, to = (data.draw(st.integers(0, len(text))) for _ in range(3))
        piece = data.draw(st.sampled_from([text[first:last], *PIECES]))
        text = text[:to] + piece + text[to + data.draw(st.sampled_from([0, len(piece)])) :]
    try:
        expected = parsed(text) or {}
    except Exception as error:  # of whatever kind
        with pytest.raises(type(error)):
            lock_text.LockText().load(text)
    else:
        assert strictly(lock_text.LockText().load(text)) == strictly(expected)


@pytest.fixture
def work(monkeypatch):
    """The lengths of what was parsed or written in full."""
    done = []

    class Counting(YAML):
        def load(self, text):
            done.append(len(text))
            return super().load(text)

        def dump(self, value, stream):
            super().dump(value, stream)
            done.append(stream.tell())

    monkeypatch.setattr(lock_text, "YAML", Counting)
    return done


def test_what_did_not_change_is_neither_parsed_nor_written_again(work):
    """The committed file, as a worker meets it from one stage to the next."""
    kept = lock_text.LockText()
    lock = kept.load(COMMITTED)
    assert kept.dump(lock) == COMMITTED == lock_text.dumped(lock)
    work.clear()
    again = kept.load(COMMITTED)
    again["stages"]["train@vae"]["outs"][0]["md5"] = "0" * 32
    text = kept.dump(again)
    assert strictly(kept.load(text)) == strictly(parsed(text)) == strictly(again)
    [written, read] = work
    assert max(written, read) < len(COMMITTED) / 20
    old, new = (set(each.splitlines(True)) for each in (COMMITTED, text))
    assert len(new - old) == 1
    # What another process appended is all that is parsed then.
    work.clear()
    longer = text + "  train@other:\n    cmd: python -m stages.train other\n"
    assert kept.load(longer)["stages"]["train@other"] == {"cmd": "python -m stages.train other"}
    assert work == [len(longer) - len(text)]


def test_whoever_reads_may_change_what_they_were_given():
    kept = lock_text.LockText()
    kept.load(COMMITTED)["stages"]["train@vae"]["deps"].clear()
    assert strictly(kept.load(COMMITTED)) == strictly(parsed(COMMITTED))


def test_values_that_are_equal_and_written_in_other_ways_are_written():
    kept = lock_text.LockText()
    for value in (1, 1.0, True, {"a": 1, "b": 2}, {"b": 2, "a": 1}, -0.0, 0.0, "1"):
        lock = {"schema": "2.0", "stages": {"one": {"x": value}}}
        assert kept.dump(lock) == lock_text.dumped(lock)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# mine\n" + text,
        lambda text: text.replace("\n  domains:\n", "\n  # mine\n  domains: # its\n"),
        lambda text: text.replace("schema: '2.0'", 'schema: "2.0"'),
        lambda text: text.replace("schema: '2.0'\n", "") + "schema: '2.0'\n",
        lambda text: text.replace("\n  ", "\n    "),
        lambda text: text + "\ndatasets: []\n",
        lambda text: text.replace("    cmd: python -m stages.compare\n", "    cmd: [a,\n  b, c]\n"),
    ],
    ids=["comment", "comments-inside", "quotes", "order", "indent", "datasets", "flow"],
)
def test_a_file_that_somebody_wrote_is_read_and_then_written_as_ever(change):
    text = change(SMALL)
    assert text != SMALL
    kept = lock_text.LockText()
    kept.load(SMALL)
    lock = kept.load(text)
    assert strictly(lock) == strictly(parsed(text))
    assert kept.dump(lock) == lock_text.dumped(lock)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("    cmd: python -m stages.download\n", "    cmd: 'python\n"),
        lambda text: text.replace("\n  download:\n", "\n<<<<<<< ours\n  download:\n"),
        lambda text: text.replace("\n  download:\n", "\n  domains:\n"),
        lambda text: text.replace("\n  download:\n", "\n...\n  download:\n"),
        lambda text: text.replace("\n  download:\n", "\u2028...\n  download:\n"),
        lambda text: text.replace("\n  download:\n", "\x85...\n  download:\n"),
        lambda text: text.replace("\n  download:\n", "\ndownload\n"),
    ],
    ids=["quote", "conflict", "twice", "end", "u2028", "x85", "colon"],
)
def test_a_damaged_block_is_refused_as_a_parser_refuses_the_file(damage):
    kept = lock_text.LockText()
    kept.load(SMALL)
    text = damage(SMALL)
    with pytest.raises(Exception) as expected:
        parsed(text)
    with pytest.raises(type(expected.value)) as found:
        kept.load(text)
    assert str(found.value) == str(expected.value)


def test_a_value_that_stands_twice_is_written_as_ever():
    day = datetime.date(2020, 1, 2)
    lock = {"schema": "2.0", "stages": {name: {"a": day, "b": [day]} for name in ("x", "y")}}
    expected = lock_text.dumped(copy.copy(lock))
    assert lock_text.ANCHOR in expected
    assert lock_text.LockText().dump(lock) == expected
