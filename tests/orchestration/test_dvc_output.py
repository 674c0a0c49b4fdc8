import signal

import pytest

from pipeline.orchestration import dvc_output
from pipeline.orchestration.dvc_output import Failure


@pytest.mark.parametrize(
    ("text", "kind", "told"),
    [
        ("Running stage 'train@vae':", "started", "train@vae"),
        ("Stage 'judge' didn't change, skipping", "unchanged", "judge"),
        (
            "Stage 'train@vae' is cached - skipping run, checking out outputs",
            "restored",
            "train@vae",
        ),
        (
            "train vae: 45% 9,000 of 20,000 images, 700/s",
            "progress",
            "9,000 of 20,000 images, 700/s",
        ),
        (
            "judge 101: 100% 28,000 of 28,000 images, 1/s ",
            "progress",
            "28,000 of 28,000 images, 1/s ",
        ),
        ("warning: params.yaml: something", "said", "warning: params.yaml: something"),
        ("error: params.yaml: something", "said", "error: params.yaml: something"),
        (
            "ERROR: failed to reproduce 'train@vae'",
            "said",
            "ERROR: failed to reproduce 'train@vae'",
        ),
    ],
)
def test_what_a_line_is(text, kind, told):
    found = dvc_output.parse(text)
    assert (found.kind, found.text) == (kind, told)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "To track the changes with git, run:",
        "\tgit add metrics/mnist-5k/curves/vae.csv dvc.lock",
        "To enable auto staging, run:",
        "\tdvc config core.autostage true",
        "Use `dvc push` to send your updates to remote storage.",
        "> python -m stages.train vae",
        "Updating lock file 'dvc.lock'",
    ],
)
def test_what_dvc_advises_is_for_nobody_here(text):
    assert dvc_output.parse(text).kind == "advice"


def test_shares_are_of_one():
    assert dvc_output.parse("sample vae: 50% 500 of 1,000 images, 9/s ").share == 0.5


def test_what_would_run_or_be_restored_is_mentioned():
    assert dvc_output.mentioned("Running stage 'train@vae':") == "train@vae"
    assert dvc_output.mentioned("Stage 'train@vae' didn't change, skipping") is None
    assert dvc_output.mentioned("> python -m stages.train vae") is None


BUSY = [
    "ERROR: failed to reproduce 'preprocess': '/here/data/processed' is busy, "
    "it is being blocked by:",
    "  (PID 25277): dvc repro train@vae",
    "If there are no processes with such PIDs, you can manually remove '/here/.dvc/tmp/rwlock'",
]


def exited(code):
    return f"ERROR: failed to reproduce 'train@vae': failed to run: python -m x, exited with {code}"


def test_a_failure_is_told_by_its_own_line():
    said = ["warning: slow", "something", "error: training diverged", exited(1)]
    assert dvc_output.failure(said, 255) == Failure(["error: training diverged"])


def test_a_defect_keeps_its_last_lines():
    said = ["warning: slow", "Traceback (most recent call last):", "KeyError: 'x'", exited(1)]
    assert dvc_output.failure(said, 255) == Failure(said[1:])


def test_what_dvc_itself_says_is_told_without_the_rest():
    told = "ERROR: failed to reproduce 'train@vae': output 'data/models/vae' does not exist"
    assert dvc_output.failure(["some line", told], 255) == Failure([told])


@pytest.mark.parametrize("code", [-signal.SIGINT, -signal.SIGTERM, 130, 143, -signal.SIGHUP])
def test_what_was_asked_to_end_has_not_failed(code):
    found = dvc_output.failure(["stopped", exited(code)], 255)
    assert found.unfinished and "train@vae was stopped" in found.lines[0]
    assert len(found.lines) == 1


def test_what_was_killed_says_so():
    found = dvc_output.failure([exited(-9)], 255)
    assert found == Failure(
        ["train@vae: it was killed; mostly that is for want of memory: try JOBS=1"]
    )
    assert dvc_output.failure([], -9).lines[0].startswith("DVC: it was killed")


def test_a_failure_without_a_word_has_its_exit_code():
    assert dvc_output.failure([], 7) == Failure(["DVC: exit code 7, without a word"])


def test_what_runs_elsewhere_has_not_failed():
    said = ["error: train@vae is already running (it holds a lock); wait or stop it", exited(1)]
    assert dvc_output.failure(said, 255) == Failure(said[:1], unfinished=True)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (["ERROR: /here is not a git repository"], "dvc config --local core.no_scm true"),
        (["ERROR: you are not inside of a DVC repository (checked up to '/')"], ".dvc"),
        (BUSY, "in use by another DVC: dvc repro train@vae (process 25277); wait"),
        (["ERROR: unexpected error - [Errno 28] No space left on device"], "No space left"),
        (["ERROR: failed: No possible cache link types for 'a'. See"], "disk is full"),
    ],
)
def test_what_is_in_the_way_is_one_line_and_no_failure(said, told):
    found = dvc_output.failure(said, 255)
    assert found.unfinished and told in found.lines[0]
    assert len(found.lines) == 1 and "\n" not in found.lines[0]
    assert dvc_output.in_the_way(["error: training diverged", exited(1)]) is None
