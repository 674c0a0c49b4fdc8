import numpy as np
import pytest

from pipeline.core import files, seeds
from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation.protocol import (
    METRIC_VERSION,
    check_size,
    judge_facts,
    protocol,
    protocol_id,
    reference_images,
    reference_index,
    sample_count,
)

JUDGE = {
    "features": 64,
    "why": "there are labels",
    "kinds": [
        {
            "kind": "classifier",
            "recipe": "r" * 64,
            "judges": [{"seed": seed, "scale": 1.0, "accuracy": 0.9} for seed in (1, 2, 3)],
        },
        {
            "kind": "label_free",
            "recipe": "f" * 64,
            "judges": [{"seed": seed, "scale": 1.0, "accuracy": 0.9} for seed in (1, 2)],
        },
    ],
}


@pytest.fixture
def store(tmp_path):
    """Images that hold their own number."""
    parts = {}
    for name, n in (("train", 30), ("val", 5), ("test", 20)):
        images = np.arange(n, dtype=np.uint8).repeat(12).reshape(n, 3, 2, 2)
        parts[name] = Split(images, np.zeros(n, np.int64))
    write(tmp_path / "processed", "toy", ["only"], parts)
    return Store(tmp_path / "processed")


def test_the_whole_split_comes_in_its_order(store):
    images = reference_images(store, "test", 20, seed=3)
    assert images.dtype == np.uint8
    assert images[:, 0, 0, 0].tolist() == list(range(20))


def test_a_subset_has_no_repeats_and_depends_on_the_seed_alone(store):
    first = reference_images(store, "test", 8, seed=0)
    assert first.shape == (8, 3, 2, 2)
    assert len(np.unique(first[:, 0, 0, 0])) == 8
    np.testing.assert_array_equal(first, reference_images(store, "test", 8, seed=0))
    assert not np.array_equal(first, reference_images(store, "test", 8, seed=1))


def test_a_subset_is_no_memory_map(store):
    images = reference_images(store, "test", 8, seed=0)
    assert not isinstance(images, np.memmap)
    assert images.flags.writeable


def test_too_few_images_name_the_parameter(store):
    with pytest.raises(PipelineError, match=r"params.yaml: sample.n = 21: .* only 20 images"):
        reference_images(store, "test", 21, seed=0)


@pytest.mark.parametrize(
    ("n", "counts", "split", "found"),
    [
        (9, (30, 5, 20), "test", 9),
        (9, (5, 5, 5), "test", 9),  # that these are too few is told elsewhere
        ("auto", (30, 7, 20), "test", 20),
        ("auto", (30, 7, 20), "val", 7),
        ("auto", (8, 7, 20), "test", 8),
        ("auto", (5000, 500, 5000), "test", 1000),
    ],
)
def test_auto_is_what_the_splits_give(n, counts, split, found):
    counts = dict(zip(("train", "val", "test"), counts, strict=True))
    assert sample_count(n, counts, split) == found


def test_auto_needs_what_metrics_need(store):
    assert sample_count("auto", store.counts, "test") == 20
    with pytest.raises(PipelineError, match=r"sample.n = 'auto': the val split has only 5 images"):
        sample_count("auto", store.counts, "val")


def test_the_images_are_those_of_the_index(store):
    index = reference_index(20, "test", 8, seed=2)
    np.testing.assert_array_equal(index, seeds.subset(20, 8, 2, "reference", "test"))
    images = reference_images(store, "test", 8, seed=2)
    np.testing.assert_array_equal(images[:, 0, 0, 0], index)


def test_the_size_can_be_checked_by_itself(store):
    check_size(store, "test", 20)
    with pytest.raises(PipelineError, match=r"set sample\.n to at most 5"):
        check_size(store, "val", 6)


def test_the_facts_of_the_judges_are_those_that_were_written(tmp_path):
    files.write_json(tmp_path / "judge.json", JUDGE)
    assert judge_facts(tmp_path) == JUDGE
    with pytest.raises(PipelineError, match="dvc repro judge"):
        judge_facts(tmp_path / "nowhere")


def test_the_facts(store):
    assert protocol(store, JUDGE, 8, "test", 5) == {
        "dataset": "toy",
        "data_sha256": store.sha256[:16],
        "judge_recipe": "r" * 16,
        "second_recipe": "f" * 16,
        "n_samples": 8,
        "n_reference": 8,
        "reference_split": "test",
        "reference_seed": 5,
        "fid_features": "judge-64x3",
        "second_features": "label-free-64x2",
        "metric_version": METRIC_VERSION,
    }


def test_the_facts_where_there_is_but_one_kind(store):
    facts = protocol(store, {**JUDGE, "kinds": JUDGE["kinds"][1:]}, 8, "test", 5)
    assert facts["fid_features"] == "label-free-64x2" and facts["judge_recipe"] == "f" * 16
    assert facts["second_features"] is None and facts["second_recipe"] is None


def test_the_id_follows_every_fact_and_not_their_order(store):
    facts = protocol(store, JUDGE, 8, "test", 5)
    name = protocol_id(facts)
    assert len(name) == 16
    assert int(name, 16) >= 0
    assert protocol_id(dict(reversed(facts.items()))) == name
    for key in facts:
        assert protocol_id({**facts, key: "other"}) != name
