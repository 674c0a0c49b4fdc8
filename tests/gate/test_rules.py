import pytest
from gated import RULES, rules

from pipeline.core.errors import PipelineError
from pipeline.gate import rules as gate_rules


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"metrics": {}}, "gate.metrics"),
        ({"metrics": {"fid": {"better": "smaller"}}}, "gate.metrics.fid.better = 'smaller'"),
        ({"metrics": {"fid": {"better": "lower", "relativ": 1}}}, "did you mean 'relative'"),
        ({"metrics": {"fid": {"better": "lower", "relative": float("inf")}}}, "fid.relative"),
        ({"models": {"ddpm": 5}}, "gate.models.ddpm"),
        ({"models": 5}, "gate.models"),
        ({"models": {"dpm": {}}}, "unknown model 'dpm'; did you mean 'ddpm'"),
        ({"models": {"ddpm": {"fidd": {}}}}, "unknown metric 'fidd'; did you mean 'fid'"),
    ],
)
def test_mistakes_in_the_rules_are_named(change, told):
    with pytest.raises(PipelineError, match=told.replace("[", r"\[")):
        rules(**change)


@pytest.mark.parametrize("block", [None, 5, "fid", ["fid"]])
def test_rules_that_are_no_section_are_named(block):
    with pytest.raises(PipelineError, match="gate: must have the key metrics"):
        gate_rules.section({"gate": block, "models": {}})


def test_rules_of_models_that_are_not_there_at_all_are_named():
    with pytest.raises(PipelineError, match="unknown model 'ddpm'"):
        gate_rules.section({"gate": {**RULES, "models": {"ddpm": {}}}})
