import pytest

from pipeline.orchestration import dvc_output


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
        "\tgit add metrics/curves/vae.csv dvc.lock",
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
