"""What ``python -m pipeline gate`` and ``baseline`` do."""

from dataclasses import replace
from pathlib import Path

from pipeline import baseline, gate, gate_report, gate_rules, launch, replicas
from pipeline.core import params, paths
from pipeline.core.errors import PipelineError

OUT = paths.WORK / "gate"


def run(base: str | None, accept: str | None, out: Path | None, *, every: bool) -> int:
    """Compare, print, write, and return the exit code: `gate.PASSED` or `gate.FAILED`.

    Args:
        base: a revision of git whose baseline is compared with; None for this folder's own.
        accept: why the present values are to be the baseline; None to change nothing.
        out: where files for programs go.
        every: print also what passes.

    Raises:
        PipelineError: if nothing could be compared.
    """
    raw = params.read()
    rules = gate_rules.section(raw)
    models = list(params.model_blocks(raw))
    now = gate.current(models)
    if accept is not None:
        if base is not None:
            raise PipelineError("--accept changes this folder's baseline: leave --base out")
        return _accept(now, rules, models, accept)
    base_line = gate.chosen_baseline(base)
    checks = gate.compare(base_line, now, rules, models)
    failed = any(check.failed for check in checks)
    code = gate.FAILED if failed else gate.PASSED
    folder = out or OUT
    try:
        gate_report.write(folder, checks, base_line.source, code=code)
    except OSError as error:
        raise PipelineError(f"{folder}: cannot write the result there: {error.strerror}") from None
    if table := gate_report.text(checks, every=every):
        print(table)
    print(gate_report.summary(checks, base_line.source))
    for check in checks:
        if check.failed:
            print(f"FAILED {gate_report.sentence(check)}")
    gate_report.annotate(checks)
    return code


def renew(seeds: int, jobs: int | None) -> None:
    """Train all models with several seeds, each of which is paid for once; write the baseline.

    The runs are those of `pipeline.thorough`.

    Args:
        seeds: how many, two or more: one says nothing of chance.
        jobs: models at a time, as of `pipeline.launch.reproduce`.

    Raises:
        PipelineError: if params.yaml has no rules, a run failed, or there is a baseline that cannot
            be read, whose reasons would be lost.
    """
    raw = params.read()
    rules = gate_rules.section(raw)
    before = baseline.read() if baseline.PATH.exists() else None
    with replicas.alone() as state:
        launch.reproduce(jobs, None, force=False)
        runs = [gate.current(list(params.model_blocks(raw)))]
        for place, chosen in enumerate(replicas.training_seeds(raw, seeds)[1:], start=2):
            print(f"baseline: training {place} of {seeds}", flush=True)
            runs.append(replicas.measure(*chosen, jobs, state))
        replicas.confirm(state)
    found = baseline.summarised(runs, list(rules.metrics))
    accepted = before.accepted if before else ()
    if before is None or (before.models, before.protocol) != (found.models, found.protocol):
        # A change that is accepted, so that this tree is compared with it and with no older one.
        accepted = (*accepted, f"{seeds} trainings, protocol {found.protocol}")
    replace(found, accepted=accepted).write()
    entries = sum(len(metrics) for metrics in found.models.values())
    print(
        f"{baseline.PATH}: {entries} metrics of {len(found.models)} models, {seeds} trainings each"
    )


def _accept(now: dict, rules: gate_rules.Gate, models: list[str], reason: str) -> int:
    told = " ".join(reason.split())
    if not told:
        raise PipelineError("--accept: say in a line why; it stands in the diff")
    base = baseline.read()
    checks = gate.compare(base, now, rules, models)
    lost = [check for check in checks if check.verdict == gate.MISSING and check.model in models]
    if lost:
        told = "; ".join(gate_report.sentence(check) for check in lost)
        raise PipelineError(f"--accept: what is missing is no value to accept: {told}")
    changed = [check for check in checks if check.verdict != gate.OK]
    if not changed:
        print("nothing to accept: every metric is as it was")
        return gate.PASSED
    gate.accept(base, checks, base.protocol, told).write()
    print(gate_report.text(changed))
    print(f"{baseline.PATH}: {len(changed)} metrics changed; commit it")
    return gate.PASSED
