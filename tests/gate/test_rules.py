import pytest
from gated import HOME, RULES, base, changed, rules, same, write
from gated import project as project

from pipeline.core.errors import PipelineError
from pipeline.gate import rules as gate_rules
from pipeline.gate.baseline import Entry


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
        ({"metrics": {"fidd": {"better": "lower"}}}, "gate.metrics.fidd: unknown metric 'fidd'"),
        ({"metrics": {"label": {"better": "lower"}}}, "gate.metrics.label: unknown metric"),
        ({"metrics": {"likelihood_bound": {"better": "lower"}}}, "likelihood_bound: unknown"),
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


def test_metrics_of_a_familys_own_are_known_where_a_result_or_the_baseline_has_them(project):
    own = {"metrics": {"own_error": {"better": "lower"}, "text": {"better": "lower"}}}
    with pytest.raises(PipelineError, match=r"own_error.*\n.*metrics\.text"):
        rules(**own)
    write(changed("vae", own_error=0.5, text="words"))
    with pytest.raises(PipelineError, match=r"metrics\.text") as raised:
        rules(**own)
    assert "own_error" not in str(raised.value).partition(";")[0]
    HOME.model_metrics("ddpm").write_text("{")
    del own["metrics"]["text"]
    rules(**own)
    write(same(base()))
    with pytest.raises(PipelineError, match="own_error"):
        rules(**own)
    base(mine={"own_error": Entry(1.0, None, 1)}).write(HOME.baseline)
    rules(**own)
