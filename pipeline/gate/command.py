"""What ``python -m pipeline gate`` and ``baseline`` do."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.core import owned, params, paths
from pipeline.core.errors import PipelineError
from pipeline.gate import baseline, compare
from pipeline.gate import report as gate_report
from pipeline.gate import rules as gate_rules

OUT = paths.WORK / "gate"


def run(base: str | None, accept: str | None, out: Path | None, *, every: bool) -> int:
    """Compare, print, write, and return the exit code: `compare.PASSED` or `compare.FAILED`.

    Args:
        base: a revision of git whose baseline is compared with; None for this folder's own.
        accept: why the present values are to be the baseline; None to change nothing.
        out: where files for programs go; None for `OUT`.
        every: print also what passes.

    Raises:
        PipelineError: if nothing could be compared.
    """
    folder = out or OUT
    owned.refuse(folder, "--out", allow=(paths.WORK,))
    raw = params.read()
    rules = gate_rules.section(raw)
    models, home = list(params.model_blocks(raw)), params.results(raw)
    now = compare.current(models, home)
    if accept is not None:
        if base is not None:
            raise PipelineError("--accept changes this folder's baseline: leave --base out")
        return _accept(home, now, rules, models, accept)
    base_line = compare.chosen_baseline(base, home, params.section(raw, "data").name)
    compare.check_judges(home)
    checks = compare.compare(base_line, now, rules, models)
    failed = any(check.failed for check in checks)
    code = compare.FAILED if failed else compare.PASSED
    gate_report.write(folder, checks, base_line.source, code=code)
    if table := gate_report.text(checks, every=every):
        print(table)
    print(gate_report.summary(checks, base_line.source))
    for check in checks:
        if check.failed:
            print(f"FAILED {gate_report.sentence(check)}")
    gate_report.annotate(checks)
    return code


def told(raw: dict[str, Any]) -> str:
    """Whether a change made the models of params.yaml worse, in a sentence; nothing is written."""
    home = params.results(raw)
    if not home.baseline.exists():
        return (
            f"no baseline of {home.title} yet: `make baseline` trains one, and `make gate` then "
            "says what got worse"
        )
    try:
        rules, models = gate_rules.section(raw), list(params.model_blocks(raw))
        base_line = baseline.read(home.baseline)
        compare.check_judges(home)
        checks = compare.compare(base_line, compare.current(models, home), rules, models)
    except PipelineError as error:
        return f"`make gate` cannot say: {str(error).splitlines()[0]}"
    failed = [check for check in checks if check.failed]
    if not failed:
        return (
            f"nothing got worse than {base_line.source} by more than chance (`make gate`, "
            f"{len(checks)} checks)"
        )
    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
    return (
        f"worse than {base_line.source}: {gate_report.sentence(failed[0])}{more} (`make gate`; "
        "`python -m pipeline gate --accept REASON` takes them into the baseline)"
    )


def renew(seeds: int, train: Callable[[], list[dict[str, dict[str, Any]]]]) -> None:
    """Write the baseline of several trainings of all models.

    Args:
        seeds: how many, two or more: one says nothing of chance.
        train: trains them and returns the metrics by model, a dictionary for each seed.

    Raises:
        PipelineError: if params.yaml has no rules, a run failed, or there is a baseline that cannot
            be read, whose reasons would be lost.
    """
    raw = params.read()
    rules, path = gate_rules.section(raw), params.results(raw).baseline
    before = baseline.read(path) if path.exists() else None
    found = baseline.summarised(train(), list(rules.metrics))
    accepted = before.accepted if before else ()
    if before is None or (before.models, before.protocol) != (found.models, found.protocol):
        # A change that is accepted, so that this tree is compared with it and with no older one.
        accepted = (*accepted, f"{seeds} trainings, protocol {found.protocol}")
    replace(found, accepted=accepted).write(path)
    entries = sum(len(metrics) for metrics in found.models.values())
    print(f"{path}: {entries} metrics of {len(found.models)} models, {seeds} trainings each")


def _accept(
    home: paths.Results, now: dict, rules: gate_rules.Gate, models: list[str], reason: str
) -> int:
    told = " ".join(reason.split())
    if not told:
        raise PipelineError("--accept: say in a line why; it stands in the diff")
    base = baseline.read(home.baseline)
    checks = compare.compare(base, now, rules, models)
    lost = [
        check
        for check in checks
        if check.verdict == compare.MISSING
        and check.model in models
        and check.reason != compare.NO_RULE
    ]
    if lost:
        told = "; ".join(gate_report.sentence(check) for check in lost)
        raise PipelineError(f"--accept: what is missing is no value to accept: {told}")
    changed = [check for check in checks if check.verdict != compare.OK]
    if not changed:
        print("nothing to accept: every metric is as it was")
        return compare.PASSED
    compare.accept(base, checks, base.protocol, told).write(home.baseline)
    print(gate_report.text(changed))
    print(f"{home.baseline}: {len(changed)} metrics changed; commit it")
    return compare.PASSED
