import pytest
from gated import HOME, PROTOCOL
from gated import project as project

from pipeline.core.errors import PipelineError
from pipeline.gate import baseline
from pipeline.gate.baseline import Entry


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
    before = HOME.baseline.read_text()
    other = baseline.read(HOME.baseline)
    other.write(HOME.baseline)
    assert HOME.baseline.read_text() == before
    other.models["vae"]["fid"] = Entry(18.5, other.models["vae"]["fid"].sd, 3)
    other.write(HOME.baseline)
    after = HOME.baseline.read_text().splitlines()
    changed_lines = [a for a, b in zip(after, before.splitlines(), strict=True) if a != b]
    assert changed_lines == ['        "mean": 18.5,']
