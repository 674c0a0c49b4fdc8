from pathlib import Path

import numpy as np
import pytest
from gated import FIDS, PROTOCOL, base, changed, rules, same

from pipeline.core import params
from pipeline.core.errors import PipelineError
from pipeline.gate import baseline, compare
from pipeline.gate import rules as gate_rules
from pipeline.gate.baseline import Baseline, Entry

ROOT = Path(__file__).parents[2]


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


def test_what_no_rule_covers_fails_and_is_no_regression_to_look_for():
    more = base()
    more.models["vae"]["own"] = Entry(1.0, 0.1, 3)
    (check,) = [c for c in compare.compare(more, same(more), rules()) if c.failed]
    assert (check.model, check.metric, check.verdict) == ("vae", "own", compare.MISSING)
    assert check.reason == compare.NO_RULE and check.change is None
    assert compare.smallest(more, rules()) == compare.smallest(base(), rules())
    assert compare.false_alarm_rate(more, rules(), runs=50) < 0.1


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
    committed = baseline.parse((ROOT / "metrics/mnist-5k/baseline.json").read_text(), "committed")
    assert min(entry.n for found in committed.models.values() for entry in found.values()) >= 3
    rules = gate_rules.section(raw)
    assert compare.false_alarm_rate(committed, rules, runs=600) <= rules.false_alarms
