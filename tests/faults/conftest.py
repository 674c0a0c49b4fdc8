"""Seeds and figures of the fault-injection tests."""

import random
from collections import Counter

import pytest
from faults import harness


@pytest.fixture
def chance(request):
    """Random numbers of this test, the same for the same FAULT_SEED."""
    print(f"FAULT_SEED={harness.SEED}")
    request.node.user_properties.append(("FAULT_SEED", harness.SEED))
    return random.Random(f"{harness.SEED} {request.node.name}")


@pytest.fixture
def count(request):
    """``count(what, n=1)`` adds to the figures that are told at the end."""

    def add(what: str, n: int = 1) -> None:
        request.node.user_properties.append((f"faults: {what}", n))

    return add


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with harness.Server(tmp_path_factory.mktemp("server")) as server:
        yield server


def pytest_collection_modifyitems(items):
    """The longest test starts first, beside which the others run."""
    items.sort(key=lambda item: not item.nodeid.startswith("tests/faults/test_soak.py"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        how = f"FAULT_SEED={harness.SEED} python -m pytest -n 0 -m slow '{item.nodeid}'"
        report.sections.append(("to repeat it", how))


def pytest_terminal_summary(terminalreporter):
    """What was tried, in numbers; the seed by which it is tried again."""
    figures, seeds = Counter(), set()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == "FAULT_SEED":
                    seeds.add(value)
                elif name.startswith("faults: "):
                    figures[name.removeprefix("faults: ")] += value
    if figures:
        told = ", ".join(f"{n:,} {what}" for what, n in sorted(figures.items()))
        terminalreporter.write_line(f"faults: {told}")
    for seed in sorted(seeds):
        terminalreporter.write_line(f"faults: FAULT_SEED={seed} does the same again")
