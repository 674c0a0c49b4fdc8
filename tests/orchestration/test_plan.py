import pytest

from pipeline.core import params
from pipeline.orchestration import plan

EVERY = {"vae": {"data": "processed"}, "cyclegan": {"data": "domains"}}
CHAIN = ["train@vae", "sample@vae", "evaluate@vae"]


def planned(stale, models=("vae", "cyclegan"), compare=True):
    return plan.chains(list(models), EVERY, stale, compare)


def test_nothing_stale_is_nothing_to_do():
    assert planned(set()) == {}


def test_what_nobody_can_tell_is_all_run():
    found = planned(None)
    assert list(found) == ["the-data", "the-judges", "vae", "cyclegan", "the-comparison"]
    assert found["the-data"] == ["download", "preprocess", "domains"]
    assert found["vae"] == CHAIN
    assert found["the-comparison"] == ["compare", "report", "track"]


def test_a_model_runs_from_its_first_stale_stage():
    assert planned({"sample@vae", "compare"})["vae"] == CHAIN[1:]
    assert "cyclegan" not in planned({"sample@vae"})


def test_new_judges_judge_all_again_and_train_nothing():
    found = planned({"judge"})
    assert found["vae"] == ["evaluate@vae"]
    assert "the-data" not in found


def test_new_data_trains_all_again():
    assert planned({"preprocess"})["vae"] == CHAIN


def test_domains_are_made_for_those_who_need_them():
    assert planned(None, models=["vae"])["the-data"] == ["download", "preprocess"]


def test_without_a_comparison_nothing_is_shown():
    assert "the-comparison" not in planned({"train@vae"}, compare=False)
    assert planned({"compare"}, compare=False) == {}


def test_no_model_can_be_called_as_other_chains_are(tmp_path):
    for name in (plan.DATA, plan.JUDGES, plan.COMPARISON):
        path = tmp_path / "params.yaml"
        path.write_text(f"models: {{{name}: {{}}}}")
        with pytest.raises(params.PipelineError, match="name"):
            params.model_blocks(params.read(path), path)


def test_domains_that_no_model_needs_are_no_reason_to_run():
    assert planned({"domains"}, models=["vae"]) == {}
    assert planned({"domains"})["the-data"] == ["download", "preprocess", "domains"]
