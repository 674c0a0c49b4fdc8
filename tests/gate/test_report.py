from gated import base, changed, rules, same

from pipeline.gate import compare
from pipeline.gate import report as gate_report


def test_verdicts_that_need_attention_come_first():
    checks = compare.compare(base(), changed("vae", bits_per_dim=1.5, coverage=0.9), rules())
    shown = gate_report.text(checks).splitlines()
    assert "worse" in shown[1] and "better" in shown[2]
    assert len(gate_report.text(checks, every=True).splitlines()) == 14


def test_where_everything_passes_there_is_no_table_unless_it_is_asked_for():
    checks = compare.compare(base(), same(base()), rules())
    assert gate_report.text(checks) == ""
    shown = gate_report.text(checks, every=True).splitlines()
    assert len(shown) == 14
    assert shown[0].split() == [*["model", "metric", "baseline", "now"], "worse", "by", "allowed",
                                "verdict"]  # fmt: skip


def test_numbers_are_shown_as_they_are_and_what_is_missing_as_a_dash():
    checks = compare.compare(base(), changed("vae", fid=None, coverage=0.30), rules())
    shown = [line.split() for line in gate_report.text(checks).splitlines()]
    found = {cells[1]: cells[2:5] for cells in shown[1:]}
    assert found == {"coverage": ["0.5", "0.3", "0.2"], "fid": ["17", "-", "-"]}
