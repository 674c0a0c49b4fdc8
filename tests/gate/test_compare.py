import json
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from pipeline import __main__ as cli
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import baseline, compare
from pipeline.gate import report as gate_report
from pipeline.gate import rules as gate_rules
from pipeline.gate.baseline import Baseline, Entry
from pipeline.orchestration import launch, replicas

ROOT = Path(__file__).parents[2]
PROTOCOL = "0123456789abcdef"
RULES = {
    "false_alarms": 0.01,
    "noisy": 1.0,
    "metrics": {
        "fid": {"better": "lower", "relative": 0.05, "absolute": 0.1},
        "coverage": {"better": "higher", "absolute": 0.02},
        "bits_per_dim": {"better": "lower", "absolute": 0.003},
        "parameters": {"better": "lower", "level": "warn"},
    },
}
FIDS = {"ddpm": 5.8, "dcgan": 7.0, "vae": 17.0, "cgan": 1.8}


def rules(**changes):
    return gate_rules.section({"gate": {**RULES, **changes}, "models": dict.fromkeys(FIDS)})


def base(sd=0.05, n=3, **more):
    """A baseline in which FIDs move by ``sd`` as a share, from training to training."""
    models = {
        name: {
            "fid": Entry(fid, sd * fid if n > 1 else None, n),
            "coverage": Entry(0.5, 0.005 if n > 1 else None, n),
            "parameters": Entry(1000.0, 0.0 if n > 1 else None, n),
        }
        for name, fid in FIDS.items()
    }
    models["vae"]["bits_per_dim"] = Entry(1.35, 0.001 if n > 1 else None, n)
    return Baseline(PROTOCOL, {**models, **more})


def same(base_line):
    return {
        model: {"protocol": PROTOCOL, **{key: entry.mean for key, entry in metrics.items()}}
        for model, metrics in base_line.models.items()
    }


def changed(model, **values):
    now = same(base())
    now[model] |= values
    return now


def verdicts(now, base_line=None, **changes):
    checks = compare.compare(base_line or base(), now, rules(**changes))
    return {(c.model, c.metric): c.verdict for c in checks if c.verdict != compare.OK}


# --- verdicts ------------------------------------------------------------------------------------


def test_an_unchanged_run_passes_in_any_order_of_keys():
    now = same(base())
    assert verdicts(now) == {}
    backwards = {model: dict(reversed(found.items())) for model, found in reversed(now.items())}
    assert verdicts(backwards) == {}


@pytest.mark.parametrize(
    ("model", "values", "verdict"),
    [
        ("ddpm", {"fid": 9.0}, compare.WORSE),
        ("ddpm", {"fid": 6.0}, None),
        ("ddpm", {"fid": 3.0}, compare.BETTER),
        ("ddpm", {"fid": -5.8}, compare.BETTER),
        ("ddpm", {"coverage": 0.4}, compare.WORSE),
        ("ddpm", {"coverage": 0.49}, None),
        ("ddpm", {"coverage": 0.6}, compare.BETTER),
        ("ddpm", {"coverage": -0.5}, compare.WORSE),
        ("ddpm", {"fid": 5.7}, None),
        ("vae", {"bits_per_dim": 1.40}, compare.WORSE),
        ("vae", {"bits_per_dim": float("nan")}, compare.MISSING),
        ("vae", {"bits_per_dim": float("inf")}, compare.MISSING),
        ("vae", {"bits_per_dim": None}, compare.MISSING),
        ("vae", {"bits_per_dim": "1.35"}, compare.MISSING),
        ("vae", {"bits_per_dim": True}, compare.MISSING),
        ("vae", {"parameters": 1001}, compare.WARNING),
        ("ddpm", {"bits_per_dim": 2.4}, compare.NEW),
        ("ddpm", {"bits_per_dim": float("nan")}, compare.MISSING),
        ("ddpm", {"bits_per_dim": "2.4"}, compare.MISSING),
    ],
)
def test_what_each_change_is(model, values, verdict):
    ((metric, _),) = values.items()
    expected = {} if verdict is None else {(model, metric): verdict}
    assert verdicts(changed(model, **values)) == expected


def test_a_model_that_is_gone_fails():
    now = same(base())
    del now["ddpm"]
    found = verdicts(now)
    assert set(found.values()) == {compare.MISSING} and {m for m, _ in found} == {"ddpm"}


def test_a_new_model_without_metrics_fails():
    checks = compare.compare(base(), same(base()), rules(), ["ddpm", "fresh"])
    assert [(c.model, c.verdict) for c in checks if c.failed] == [("fresh", compare.MISSING)]


def test_another_protocol_cannot_be_compared():
    with pytest.raises(PipelineError, match="protocol other, but the baseline"):
        verdicts(changed("vae", protocol="other"))


def test_nothing_in_common_cannot_be_compared():
    with pytest.raises(PipelineError, match="no metric of it is one"):
        compare.compare(Baseline(PROTOCOL, {"ddpm": {"unknown": Entry(1.0, None, 1)}}),
                     same(base()), rules())  # fmt: skip


# --- how much is allowed -------------------------------------------------------------------------


def allowed(base_line, model="ddpm", metric="fid", **changes):
    checks = compare.compare(base_line, same(base_line), rules(**changes))
    return next(c.allowed for c in checks if (c.model, c.metric) == (model, metric))


def test_without_spread_tolerances_alone_count():
    assert allowed(base(sd=0.0)) == pytest.approx(0.05 * 5.8)
    assert allowed(base(sd=0.0), model="cgan") == pytest.approx(0.1)
    assert allowed(base(n=1)) == pytest.approx(0.05 * 5.8)


def test_chance_is_students_t_of_the_common_spread():
    from scipy import stats

    one = base(sd=0.05)
    checks = sum(len(metrics) for metrics in one.models.values())
    k = stats.t.isf(0.01 / checks, 2 * len(FIDS))
    assert allowed(one) == pytest.approx(5.8 * np.expm1(k * 0.05 * np.sqrt(4 / 3)))
    flat = k * 0.005 * np.sqrt(4 / 3)
    assert allowed(one, metric="coverage") == pytest.approx(flat)
    assert k > 4, "with few degrees of freedom and many checks three sigma do not do"


def test_the_model_that_moves_most_sets_what_is_allowed():
    wild = base()
    wild.models["ddpm"]["fid"] = Entry(5.8, 5.8 * 0.2, 3)
    assert allowed(wild) > 3 * allowed(base())
    assert allowed(wild, model="vae") / 17.0 == pytest.approx(allowed(wild) / 5.8)


def test_what_two_trainings_say_is_far_but_finite():
    one = Baseline(PROTOCOL, {"ddpm": {"fid": Entry(5.8, 580.0, 2)}})
    (check,) = compare.compare(one, {"ddpm": {"protocol": PROTOCOL, "fid": 1e9}}, rules())
    assert np.isfinite(check.allowed) and check.allowed > 1e9


def test_models_have_rules_of_their_own():
    override = {"ddpm": {"fid": {"relative": 0.9, "level": "warn"}}}
    assert allowed(base(), models=override) == pytest.approx(0.9 * 5.8)
    assert verdicts(changed("ddpm", fid=30.0), models=override) == {
        ("ddpm", "fid"): compare.WARNING
    }


def test_what_is_too_noisy_only_warns():
    found = compare.compare(base(sd=0.4), changed("ddpm", fid=300.0), rules())
    (check,) = [c for c in found if c.verdict != compare.OK]
    assert check.verdict == compare.WARNING and "too noisy" in check.reason


def test_the_smallest_regression_that_is_stopped():
    quiet = compare.smallest(base(), rules())
    assert all(c.verdict == compare.WORSE for c in quiet if c.metric in ("fid", "coverage"))
    assert all(c.verdict == compare.WARNING for c in quiet if c.metric == "parameters")
    noisy = compare.smallest(base(sd=0.4), rules())
    assert all(c.verdict == compare.WARNING for c in noisy if c.metric == "fid")
    check = next(c for c in quiet if (c.model, c.metric) == ("ddpm", "fid"))
    for factor, stopped in ((0.99, False), (1.01, True)):
        now = changed("ddpm", fid=5.8 + factor * check.allowed)
        assert bool(verdicts(now)) == stopped


def test_false_alarms_are_as_rare_as_they_should_be():
    """All models retrained with nothing changed, against a baseline of three trainings."""
    rng = np.random.default_rng(0)
    means = np.geomspace(1, 20, 16)
    alarms = 0
    runs = 2000
    for _ in range(runs):
        drawn = means[:, None] * np.exp(rng.normal(0, 0.1, (16, 4)))
        models = {
            f"m{i}": {"fid": Entry(float(x[:3].mean()), float(x[:3].std(ddof=1)), 3)}
            for i, x in enumerate(drawn)
        }
        now = {f"m{i}": {"protocol": PROTOCOL, "fid": float(x[3])} for i, x in enumerate(drawn)}
        one = compare.compare(Baseline(PROTOCOL, models), now, rules())
        alarms += any(check.failed for check in one)
    assert alarms / runs < 0.015


def test_the_simulation_sees_alarms_where_there_are_some():
    quiet = compare.false_alarm_rate(base(), rules(), runs=300)
    assert quiet < 0.02
    loose = compare.false_alarm_rate(base(), rules(false_alarms=0.9), runs=300)
    assert loose > 3 * max(quiet, 0.01)
    assert compare.false_alarm_rate(base(n=1), rules(), runs=20) == 0


def test_the_committed_baseline_raises_few_false_alarms():
    """With the spreads that the committed trainings have, which differ from model to model."""
    raw = params.read(ROOT / "params.yaml")
    committed = baseline.parse((ROOT / baseline.PATH).read_text(), "committed")
    assert min(entry.n for found in committed.models.values() for entry in found.values()) >= 3
    assert compare.false_alarm_rate(committed, gate_rules.section(raw), runs=600) < 0.01


# --- rules and files -----------------------------------------------------------------------------


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


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a baseline and the metrics that gave it, committed."""
    monkeypatch.chdir(tmp_path)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump({"gate": RULES, "models": {n: {"family": n} for n in FIDS}}, stream)
    base().write()
    write(same(base()))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "base"]):
        git(*command)
    return tmp_path


def git(*command):
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], check=True)


def spoil_entry(**values):
    found = json.loads(baseline.PATH.read_text())
    found["models"]["vae"]["fid"] |= values
    baseline.PATH.write_text(json.dumps(found))


def write(now):
    paths.MODEL_METRICS.mkdir(parents=True, exist_ok=True)
    for model, found in now.items():
        paths.model_metrics(model).write_text(json.dumps(found))


def test_an_unchanged_run_exits_with_0_and_writes_its_files(project, capsys):
    assert cli.main(["gate"]) == 0
    assert "13 checks against metrics/baseline.json: 13 ok" in capsys.readouterr().out
    found = json.loads((project / "work/gate/gate.json").read_text())
    assert found["exit_code"] == 0 and len(found["checks"]) == 13
    suite = ET.parse(project / "work/gate/junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("13", "0")


def test_a_regression_exits_with_1_and_says_what_and_by_how_much(project, capsys):
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate"]) == 1
    shown = capsys.readouterr().out
    assert "ddpm: fid is 11.25, baseline 5.8: worse by 5.45, allowed" in shown
    suite = ET.parse(project / "work/gate/junit.xml").getroot()
    (failure,) = suite.iter("failure")
    assert "worse by 5.45" in failure.get("message")
    assert suite.get("failures") == "1"


def test_github_gets_a_summary_and_annotations(project, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project / "summary.md"))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    write(changed("ddpm", fid=11.25) | {"vae": {**changed("vae")["vae"], "parameters": 1200}})
    assert cli.main(["gate"]) == 1
    shown = capsys.readouterr().out
    assert "::error title=ddpm fid::ddpm: fid is 11.25" in shown
    assert "::warning title=vae parameters::" in shown
    summary = (project / "summary.md").read_text()
    assert "## Metrics got worse" in summary
    assert "| ddpm | fid | 5.8 | 11.25 | 5.45 |" in summary


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda: baseline.PATH.unlink(), "no such file; `make baseline` writes it"),
        (lambda: baseline.PATH.write_text("{"), "no baseline"),
        (lambda: baseline.PATH.write_text('{"models": {}}'), "no baseline"),
        (lambda: Baseline(PROTOCOL, {}).write(), "no metric of it"),
        (lambda: write(changed("vae", protocol="other")), "nothing compares"),
        (lambda: spoil_entry(mean=float("nan")), "no finite mean"),
        (lambda: spoil_entry(n=0), "no finite mean"),
        (lambda: spoil_entry(sd=float("inf")), "no standard deviation"),
        (lambda: spoil_entry(sd="x"), "no baseline"),
        (lambda: baseline.PATH.write_bytes(b"\xff\xfe"), "no baseline"),
        (lambda: paths.model_metrics("vae").write_text("[]"), "vae.json: must hold metrics"),
        (lambda: paths.WORK.joinpath("gate").touch(), "work/gate: cannot write"),
        (lambda: paths.model_metrics("vae").write_text("{"), "vae.json: not valid JSON"),
        (lambda: paths.PARAMS.write_text("models: {vae: {}}\n"), "gate: missing section"),
    ],
)
def test_what_cannot_be_compared_exits_with_2(project, spoil, told, capsys):
    paths.WORK.mkdir()
    spoil()
    assert cli.main(["gate"]) == 2
    assert told in capsys.readouterr().err


def test_what_nobody_thought_of_exits_with_2(project, monkeypatch, capsys):
    monkeypatch.setattr(compare, "compare", lambda *_: 1 / 0)
    assert cli.main(["gate"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_no_metrics_at_all_is_a_failure(project):
    for model in FIDS:
        paths.model_metrics(model).unlink()
    assert cli.main(["gate"]) == 1


def test_accepting_needs_a_reason_that_then_stands_in_the_diff(project, capsys):
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate", "--accept", " "]) == 2
    assert cli.main(["gate", "--accept", "half the steps,\nfor speed"]) == 0
    assert cli.main(["gate"]) == 0
    found = baseline.read()
    assert found.accepted == ("half the steps, for speed",)
    assert found.models["ddpm"]["fid"] == Entry(11.25, None, 1)
    assert found.models["vae"] == base().models["vae"]
    assert cli.main(["gate", "--accept", "again"]) == 0
    assert "nothing to accept" in capsys.readouterr().out


def test_a_revision_is_compared_with_unless_this_tree_accepts(project, capsys):
    assert cli.main(["gate", "--base", "HEAD"]) == 0
    write(changed("ddpm", fid=11.25))
    worse = base()
    worse.models["ddpm"]["fid"] = Entry(11.25, None, 1)
    worse.write()
    assert cli.main(["gate", "--base", "HEAD"]) == 1, "a baseline edited without a reason"
    base().write()
    assert cli.main(["gate", "--accept", "on purpose"]) == 0
    capsys.readouterr()
    assert cli.main(["gate", "--base", "HEAD"]) == 0
    assert "which accepts: on purpose" in capsys.readouterr().out
    assert cli.main(["gate", "--base", "nowhere"]) == 2
    assert "baseline.json of nowhere: git: " in capsys.readouterr().err
    assert cli.main(["gate", "--base", "HEAD", "--accept", "why"]) == 2
    assert "leave --base out" in capsys.readouterr().err


def test_reasons_that_are_not_those_of_the_base_and_more_do_not_count(project):
    replace(base(), accepted=("an old reason",)).write()
    git("commit", "-q", "-a", "-m", "accepted before")
    worse = replace(base(), accepted=("another", "and one more"))
    worse.models["ddpm"]["fid"] = Entry(11.25, None, 1)
    worse.write()
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate", "--base", "HEAD"]) == 1


def test_several_trainings_make_a_baseline(project, monkeypatch):
    asked = []

    def measure(train_seed, sample_seed, jobs, before):
        asked.append((train_seed, sample_seed))
        return changed("ddpm", fid=5.8 + asked[-1][0])

    raw = {"train": {"seed": 0, "budget": 1.0}, "sample": {"seed": 4, "n": 9}}
    with paths.PARAMS.open("a") as stream:
        YAML(typ="safe").dump(raw, stream)
    monkeypatch.setattr(launch, "reproduce", lambda *_, **__: None)
    monkeypatch.setattr(replicas, "measure", measure)
    replace(base(), accepted=("before",)).write()
    assert cli.main(["baseline", "--seeds", "3"]) == 0
    assert asked == [(1, 5), (2, 6)]
    found = baseline.read()
    assert found.models["ddpm"]["fid"] == Entry(6.8, 1.0, 3)
    assert found.accepted == ("before", f"3 trainings, protocol {PROTOCOL}")
    assert cli.main(["baseline", "--seeds", "3"]) == 0
    assert baseline.read() == found, "the same figures are nothing new"
    baseline.PATH.write_text("<<<<<<< ours")
    asked.clear()
    assert cli.main(["baseline"]) == 1
    assert asked == [], "reasons would be lost, so nothing is trained"


def test_one_training_is_no_baseline(capsys):
    with pytest.raises(SystemExit):
        cli.main(["baseline", "--seeds", "1"])
    assert "at least 2, not '1'" in capsys.readouterr().err


def test_a_model_that_was_removed_is_accepted_like_any_change(project):
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump({"gate": RULES, "models": {"ddpm": {}, "vae": {}}}, stream)
    assert cli.main(["gate"]) == 1
    assert cli.main(["gate", "--accept", "without GANs"]) == 0
    assert set(baseline.read().models) == {"ddpm", "vae"}
    assert cli.main(["gate"]) == 0


def test_what_is_missing_is_not_accepted(project, capsys):
    before = baseline.PATH.read_text()
    write(changed("vae", bits_per_dim=None))
    paths.model_metrics("ddpm").unlink()
    assert cli.main(["gate", "--accept", "never mind"]) == 2
    told = capsys.readouterr().err
    assert "ddpm: fid (the model has no metrics)" in told
    assert "vae: bits_per_dim (bits_per_dim is None)" in told
    assert baseline.PATH.read_text() == before


def test_a_baseline_is_the_mean_over_runs():
    runs = [
        {"vae": {"protocol": PROTOCOL, "fid": fid, "kid": None, "bits_per_dim": 1.3}}
        for fid in (4.0, 5.0, 6.0)
    ]
    found = baseline.summarised(runs, ["fid", "kid", "bits_per_dim"])
    assert found.models == {"vae": {"fid": Entry(5.0, 1.0, 3), "bits_per_dim": Entry(1.3, 0.0, 3)}}
    runs[1]["vae"]["protocol"] = "other"
    with pytest.raises(PipelineError, match="2 protocols"):
        baseline.summarised(runs, ["fid"])
    runs[1]["vae"] |= {"protocol": PROTOCOL, "fid": None}
    with pytest.raises(PipelineError, match="vae: fid is not a finite number in every run"):
        baseline.summarised(runs, ["fid"])


def test_equal_baselines_are_equal_bytes_and_one_figure_is_one_line(project):
    before = baseline.PATH.read_text()
    other = baseline.read()
    other.write()
    assert baseline.PATH.read_text() == before
    other.models["vae"]["fid"] = Entry(18.5, other.models["vae"]["fid"].sd, 3)
    other.write()
    after = baseline.PATH.read_text().splitlines()
    changed_lines = [a for a, b in zip(after, before.splitlines(), strict=True) if a != b]
    assert changed_lines == ['        "mean": 18.5,']


def test_verdicts_that_need_attention_come_first():
    checks = compare.compare(base(), changed("vae", bits_per_dim=1.5, coverage=0.9), rules())
    shown = gate_report.text(checks).splitlines()
    assert "worse" in shown[1] and "better" in shown[2]
    assert len(gate_report.text(checks, every=True).splitlines()) == 14
