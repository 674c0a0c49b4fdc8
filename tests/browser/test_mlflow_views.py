"""The saved views in MLflow's own pages. Needs Chromium, and playwright (the extra `browser`)."""

import signal

import pytest
from browser.pages import CHROMIUM, visiting
from served import free_port, serving
from served import project as project
from tracked import track

from pipeline.tracking import views as tracking_views

pytest.importorskip("playwright", reason="make test-browser installs it")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
MODELS = ("dcgan", "ddpm", "vae")


@pytest.fixture(scope="module")
def links(project):
    """The links that `make ui` prints, by view, while its server runs."""
    track()
    with serving("--port", str(free_port())) as (server, printed):
        lines = [line.partition(": ") for line in printed if "viewStateShareKey" in line]
        yield {name.rpartition(", ")[2]: address for name, _, address in lines}
        server.send_signal(signal.SIGINT)
        server.wait(30)


def test_the_leaderboard_lists_all_models_with_their_metrics(links):
    with visiting(links["Leaderboard"]) as visit:
        for model in MODELS:
            visit.page.get_by_text(model, exact=True).first.wait_for()
        text = visit.page.inner_text("body")
        assert "fid" in text and "12.5" in text
        assert visit.hosts == {"127.0.0.1"}
        assert visit.errors == []


def test_the_families_are_charted_with_their_images(links):
    with visiting(links["Families"], height=3000) as visit:
        for title in tracking_views.SECTIONS:
            visit.page.get_by_text(title, exact=True).first.wait_for()
        visit.page.wait_for_selector(".js-plotly-plot .bars path")
        visit.page.wait_for_function(
            "[...document.images].filter(i => i.src.includes('artifact') && i.naturalWidth).length"
            f" >= {len(MODELS)}"
        )
        assert visit.hosts == {"127.0.0.1"}
        assert visit.errors == []
