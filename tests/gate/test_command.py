import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from compared import reference, rewrite, verdict
from gated import DATA, FIDS, HOME, PROTOCOL, RULES, base, changed, git, same, write
from gated import project as project
from ruamel.yaml import YAML

from pipeline import __main__ as cli
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import baseline, command, compare
from pipeline.gate.baseline import Baseline, Entry
from pipeline.orchestration import replicas, repro


def spoil_entry(**values):
    found = json.loads(HOME.baseline.read_text())
    found["models"]["vae"]["fid"] |= values
    HOME.baseline.write_text(json.dumps(found))


def test_an_unchanged_run_exits_with_0_and_writes_its_files(project, capsys):
    assert cli.main(["gate"]) == 0
    assert "13 checks against metrics/toy/baseline.json: 13 ok" in capsys.readouterr().out
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


def asked():
    return command.told(params.read())


def test_whether_a_change_made_it_worse_is_told_in_a_sentence(project):
    before = sorted(project.rglob("*"))
    assert asked() == (
        "nothing got worse than metrics/toy/baseline.json by more than chance (`make gate`, "
        "13 checks)"
    )
    write(changed("ddpm", fid=11.25) | {"vae": changed("vae", fid=90.0)["vae"]})
    told = asked()
    assert told.startswith("worse than metrics/toy/baseline.json: ddpm: fid is 11.25, baseline 5.8")
    assert ", and 1 more (`make gate`; `python -m pipeline gate --accept REASON`" in told
    HOME.baseline.unlink()
    assert asked().startswith("no baseline of toy yet: `make baseline` trains one")
    assert [each for each in before if each != project / HOME.baseline] == sorted(
        project.rglob("*")
    ), "nothing is written"


def test_what_does_not_compare_is_told_in_a_sentence_too(project):
    write({name: {**found, "protocol": "f" * 16} for name, found in same(base()).items()})
    told = asked()
    assert told.startswith("`make gate` cannot say: ") and "so nothing compares" in told
    assert "\n" not in told


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
        (lambda: HOME.baseline.unlink(), "no such file; `make baseline` writes it"),
        (lambda: HOME.baseline.write_text("{"), "baseline.json: not valid JSON"),
        (lambda: HOME.baseline.write_text('{"models": {}}'), "baseline.json: accepted: missing"),
        (lambda: Baseline(PROTOCOL, {}).write(HOME.baseline), "no metric of it"),
        (lambda: write(changed("vae", protocol="other")), "nothing compares"),
        (lambda: spoil_entry(mean=float("nan")), "NaN is no finite number"),
        (lambda: spoil_entry(mean=None), "models.vae.fid.mean = None: should be a finite number"),
        (lambda: spoil_entry(n=0), "models.vae.fid.n = 0: should be greater than"),
        (lambda: spoil_entry(n=True), "models.vae.fid.n = True: should be a valid integer"),
        (lambda: spoil_entry(sd=float("inf")), "Infinity is no finite number"),
        (lambda: spoil_entry(sd=-1), "models.vae.fid.sd = -1: should be 0 or more"),
        (lambda: spoil_entry(sd="x"), "models.vae.fid.sd = 'x': should be a finite number"),
        (lambda: spoil_entry(mean=1e308), "models.vae.fid.mean = 1e+308: should be a finite num"),
        (lambda: spoil_entry(n=10**400), "models.vae.fid.n = 1000"),
        (lambda: spoil_entry(std=1), "models.vae.fid.std = 1: "),
        (lambda: HOME.baseline.write_bytes(b"\xff\xfe"), "baseline.json: not UTF-8 text"),
        (lambda: HOME.model_metrics("vae").write_text("[]"), "vae.json: should be a valid dic"),
        (lambda: rewrite(HOME.model_metrics("vae"), fid="5"), "vae.json: fid = '5': should be"),
        (lambda: rewrite(HOME.model_metrics("vae"), model="ae"), "should be 'vae', as the file"),
        (lambda: paths.WORK.joinpath("gate").touch(), "work/gate/gate.json"),
        (lambda: HOME.model_metrics("vae").write_text("{"), "vae.json: not valid JSON"),
        (lambda: paths.PARAMS.write_text("models: {vae: {}}\n"), "gate: missing section"),
    ],
)
def test_what_cannot_be_compared_exits_with_2(project, spoil, told, capsys):
    paths.WORK.mkdir()
    spoil()
    assert cli.main(["gate"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if told in line]
    assert line.startswith("error: ")


def test_every_broken_file_has_a_line(project, capsys):
    rewrite(HOME.model_metrics("vae"), fid=None)
    HOME.model_metrics("cgan").write_text("<<<<<<< ours")
    assert cli.main(["gate"]) == 2
    first, second = sorted(capsys.readouterr().err.splitlines())
    assert "cgan.json: not valid JSON" in first
    assert "vae.json: fid is null, though fid_min is there" in second


def test_a_revision_with_a_damaged_baseline_is_told(project, capsys):
    HOME.baseline.write_text("{")
    git("commit", "-q", "-a", "-m", "damaged")
    base().write(HOME.baseline)
    assert cli.main(["gate", "--base", "HEAD"]) == 2
    assert "baseline.json of HEAD: not valid JSON" in capsys.readouterr().err
    assert cli.main(["gate", "--base=--output=stolen"]) == 2
    assert "no revision of git" in capsys.readouterr().err
    assert not Path("stolen:").exists()


@pytest.mark.parametrize("out", [".", "data/raw", "metrics", ".git/hooks"])
def test_results_are_not_written_among_what_the_tools_own(project, out, capsys):
    assert cli.main(["gate", "--out", out]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --out = '{out}': it ")
    assert cli.main(["gate", "--out", "work"]) == 0
    assert cli.main(["gate", "--out", "elsewhere"]) == 0
    assert {path.name for path in Path("elsewhere").iterdir()} == {"gate.json", "junit.xml"}


# --- a rule that is gone -------------------------------------------------------------------------


def set_rules(**changes):
    rules = {**RULES["metrics"], **changes}
    kept = {key: rule for key, rule in rules.items() if rule is not None}
    with paths.PARAMS.open("w") as stream:
        models = {name: {"family": name} for name in FIDS}
        YAML(typ="safe").dump(
            {"data": DATA, "gate": {**RULES, "metrics": kept}, "models": models}, stream
        )


def test_a_typo_switches_no_gate_off(project, capsys):
    set_rules(fid=None, fidd=RULES["metrics"]["fid"])
    write(changed("vae", fid=99.0))
    assert cli.main(["gate"]) == 2
    told = capsys.readouterr().err
    assert "gate.metrics.fidd: unknown metric 'fidd'; did you mean 'fid'?" in told


@pytest.mark.parametrize("more", [(), ("--base", "HEAD")])
def test_a_metric_of_the_baseline_without_a_rule_fails(project, more, capsys):
    set_rules(fid=None)
    assert cli.main(["gate", *more]) == 1
    shown = capsys.readouterr().out
    assert "FAILED vae: fid (gate.metrics has no rule for it: add one, or `gate --accept` " in shown
    assert shown.count("FAILED") == len(FIDS)
    assert cli.main(["gate", "--accept", "fid says nothing here"]) == 0
    assert all("fid" not in metrics for metrics in baseline.read(HOME.baseline).models.values())
    assert (
        baseline.read(HOME.baseline).models["vae"]["coverage"] == base().models["vae"]["coverage"]
    )
    assert cli.main(["gate", *more]) == 0


def test_what_nobody_thought_of_exits_with_2(project, monkeypatch, capsys):
    monkeypatch.setattr(compare, "compare", lambda *_: 1 / 0)
    assert cli.main(["gate"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_no_metrics_at_all_is_a_failure(project):
    for model in FIDS:
        HOME.model_metrics(model).unlink()
    assert cli.main(["gate"]) == 1


def test_accepting_needs_a_reason_that_then_stands_in_the_diff(project, capsys):
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate", "--accept", " "]) == 2
    assert cli.main(["gate", "--accept", "half the steps,\nfor speed"]) == 0
    assert cli.main(["gate"]) == 0
    found = baseline.read(HOME.baseline)
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
    worse.write(HOME.baseline)
    assert cli.main(["gate", "--base", "HEAD"]) == 1, "a baseline edited without a reason"
    base().write(HOME.baseline)
    assert cli.main(["gate", "--accept", "on purpose"]) == 0
    capsys.readouterr()
    assert cli.main(["gate", "--base", "HEAD"]) == 0
    assert "which accepts: on purpose" in capsys.readouterr().out
    assert cli.main(["gate", "--base", "nowhere"]) == 2
    assert "baseline.json of nowhere: git: " in capsys.readouterr().err
    assert cli.main(["gate", "--base", "HEAD", "--accept", "why"]) == 2
    assert "leave --base out" in capsys.readouterr().err


def test_a_revision_of_before_data_sets_had_folders_has_the_baseline_of_its_own(project, capsys):
    for name in ("models", "baseline.json"):
        git("mv", f"{HOME.folder}/{name}", "metrics")
    Path("metrics/reference.json").write_text('{"dataset": "toy"}')
    git("add", "-A")
    git("commit", "-q", "-m", "as it was")
    git("mv", "metrics/models", "metrics/baseline.json", str(HOME.folder))
    assert cli.main(["gate", "--base", "HEAD"]) == 0
    assert "13 checks against metrics/baseline.json of HEAD: 13 ok" in capsys.readouterr().out
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate", "--base", "HEAD"]) == 1
    for other in ('{"dataset": "another"}', "[]", "{"):
        Path("metrics/reference.json").write_text(other)
        git("commit", "-q", "-m", "of other images", "metrics/reference.json")
        capsys.readouterr()
        assert cli.main(["gate", "--base", "HEAD"]) == 2
        assert "metrics/toy/baseline.json of HEAD: git: " in capsys.readouterr().err


def test_reasons_that_are_not_those_of_the_base_and_more_do_not_count(project):
    replace(base(), accepted=("an old reason",)).write(HOME.baseline)
    git("commit", "-q", "-a", "-m", "accepted before")
    worse = replace(base(), accepted=("another", "and one more"))
    worse.models["ddpm"]["fid"] = Entry(11.25, None, 1)
    worse.write(HOME.baseline)
    write(changed("ddpm", fid=11.25))
    assert cli.main(["gate", "--base", "HEAD"]) == 1


def test_several_trainings_make_a_baseline(project, monkeypatch):
    asked = []

    def measure(train_seed, sample_seed, jobs, before):
        asked.append((train_seed, sample_seed))
        return changed("ddpm", fid=5.8 + train_seed)

    raw = {"train": {"seed": 0, "budget": 1.0}, "sample": {"seed": 4, "n": 9}}
    with paths.PARAMS.open("a") as stream:
        YAML(typ="safe").dump(raw, stream)
    monkeypatch.setattr(cli, "validate", lambda: asked.append("valid"))
    monkeypatch.setattr(repro, "reproduce", lambda *_, **__: asked.append("default run"))
    monkeypatch.setattr(replicas, "measure", measure)
    replace(base(), accepted=("before",)).write(HOME.baseline)
    assert cli.main(["baseline", "--seeds", "3"]) == 0
    assert asked == ["valid", "default run", (1, 5), (2, 6)]
    found = baseline.read(HOME.baseline)
    assert found.models["ddpm"]["fid"] == Entry(6.8, 1.0, 3)
    assert found.accepted == ("before", f"3 trainings, protocol {PROTOCOL}")
    assert cli.main(["baseline", "--seeds", "3"]) == 0
    assert baseline.read(HOME.baseline) == found, "the same figures are nothing new"
    HOME.baseline.write_text("<<<<<<< ours")
    asked.clear()
    assert cli.main(["baseline"]) == 1
    assert asked == ["valid"], "reasons would be lost, so nothing is trained"


def test_a_mistake_in_params_is_told_before_anything_is_trained(project, monkeypatch, capsys):
    monkeypatch.setattr(replicas, "trainings", lambda *_: pytest.fail("trained"))
    with paths.PARAMS.open("a") as stream:
        YAML(typ="safe").dump({"gatee": {}}, stream)
    assert cli.main(["baseline"]) == 1
    assert "unknown section 'gatee'; did you mean 'gate'" in capsys.readouterr().err


def test_whoever_calls_says_how_the_baseline_is_trained(project, capsys):
    runs = [same(base()) | {"ddpm": changed("ddpm", fid=fid)["ddpm"]} for fid in (5.0, 6.0, 7.0)]
    command.renew(3, lambda: runs)
    assert baseline.read(HOME.baseline).models["ddpm"]["fid"] == Entry(6.0, 1.0, 3)
    assert "13 metrics of 4 models, 3 trainings each" in capsys.readouterr().out


def test_without_rules_nothing_is_trained(project):
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump({"data": DATA, "models": {}}, stream)
    with pytest.raises(PipelineError, match="gate: missing section"):
        command.renew(3, lambda: pytest.fail("trained"))


def test_one_training_is_no_baseline(capsys):
    with pytest.raises(SystemExit):
        cli.main(["baseline", "--seeds", "1"])
    assert "at least 2, not '1'" in capsys.readouterr().err


def test_a_model_that_was_removed_is_accepted_like_any_change(project):
    with paths.PARAMS.open("w") as stream:
        YAML(typ="safe").dump(
            {"data": DATA, "gate": RULES, "models": {"ddpm": {}, "vae": {}}}, stream
        )
    assert cli.main(["gate"]) == 1
    assert cli.main(["gate", "--accept", "without GANs"]) == 0
    assert set(baseline.read(HOME.baseline).models) == {"ddpm", "vae"}
    assert cli.main(["gate"]) == 0


def test_what_is_missing_is_not_accepted(project, capsys):
    before = HOME.baseline.read_text()
    write(changed("vae", bits_per_dim=None))
    HOME.model_metrics("ddpm").unlink()
    assert cli.main(["gate", "--accept", "never mind"]) == 2
    told = capsys.readouterr().err
    assert "ddpm: fid (the model has no metrics)" in told
    assert "vae: bits_per_dim (bits_per_dim is None)" in told
    assert HOME.baseline.read_text() == before


def test_judges_that_rank_nothing_are_no_ground_for_a_gate(project, capsys):
    rows = reference() | {"judges": verdict("they see no blur")}
    HOME.reference.parent.mkdir(parents=True, exist_ok=True)
    HOME.reference.write_text(json.dumps(rows))
    assert cli.main(["gate"]) == 2
    told = capsys.readouterr().err
    assert "reference.json: these FIDs rank nothing" in told and "they see no blur" in told
    HOME.reference.write_text(json.dumps(rows | {"judges": verdict()}))
    assert cli.main(["gate"]) == 0
