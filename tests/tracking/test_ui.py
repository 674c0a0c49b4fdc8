import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import IO

import pytest
from mlflow import MlflowClient
from served import family_of, free_port, serving
from served import project as project
from tracked import PNG, Project, track

from pipeline.core.errors import PipelineError
from pipeline.tracking import mirror, ui


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as listener:
        listener.bind((ui.HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read()


def search(url: str, experiment_id: str) -> list[dict]:
    body = json.dumps({"experiment_ids": [experiment_id]}).encode()
    request = urllib.request.Request(
        f"{url}/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"}
    )
    return json.loads(get(request)).get("runs", [])


def test_first_port_is_taken_if_it_is_free(monkeypatch, capsys):
    monkeypatch.setattr(ui, "FIRST_PORT", free_port())
    assert ui.choose_port(None) == ui.FIRST_PORT
    assert capsys.readouterr().out == ""


def test_next_free_port_is_found_and_named(taken, monkeypatch, capsys):
    monkeypatch.setattr(ui, "FIRST_PORT", taken)
    port = ui.choose_port(None)
    assert port > taken
    assert capsys.readouterr().out == f"port {taken} is taken, using {port}\n"


def test_port_that_was_asked_for_is_not_replaced(taken):
    with pytest.raises(PipelineError, match=f"^port {taken} is taken"):
        ui.choose_port(taken)


def test_all_ports_taken_is_one_line(taken, monkeypatch):
    monkeypatch.setattr(ui, "FIRST_PORT", taken)
    monkeypatch.setattr(ui, "PORTS_TRIED", 1)
    with pytest.raises(PipelineError, match=f"ports {taken} to {taken} are all taken"):
        ui.choose_port(None)


def test_nothing_to_see_yet_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(PipelineError, match=r"^mlflow.db: no such file; run `make repro` first$"):
        ui.serve(None)
    assert not any(tmp_path.iterdir())


def test_server_that_fails_says_why(project, monkeypatch):
    # What uvicorn says when somebody takes the port after we looked.
    said = "INFO: starting\n[Errno 98] error while binding: in use\nINFO: shutdown complete\n"

    def start(_uri: str, _port: int, log: IO[str]) -> subprocess.Popen:
        code = f"import sys; sys.exit({said!r})"
        return subprocess.Popen([sys.executable, "-c", code], stderr=log, start_new_session=True)

    monkeypatch.setattr(ui, "_start", start)
    with pytest.raises(PipelineError) as raised:
        ui.serve(free_port())
    assert str(raised.value) == (
        "the MLflow server did not start: [Errno 98] error while binding: in use"
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_it_once_and_only_meanwhile(number):
    before = signal.getsignal(number)
    with ui._stopped_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # while it stops already
    assert signal.getsignal(number) is before


def test_the_present_data_set_comes_first(project):
    links = {"fruits · p": "1", "mnist-5k-more · p": "2", "mnist-5k · p": "3"}
    assert list(ui._present_first(links)) == ["mnist-5k · p", "fruits · p", "mnist-5k-more · p"]


@pytest.mark.slow
def test_pages_show_the_runs_and_their_pictures_until_ctrl_c(project):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with serving("--port", str(port)) as (server, printed):
        assert get(f"{url}/health") == b"OK"
        links = [line for line in printed if "viewStateShareKey" in line]
        names = [line.partition(": ")[0] for line in links]
        assert names == ["mnist-5k · a1b2c3d4, Leaderboard", "mnist-5k · a1b2c3d4, Families"]
        address = links[0].partition(": ")[2]
        assert address.startswith(url)
        experiment_id = re.search(r"experiments/(\d+)/runs", address).group(1)
        runs = search(url, experiment_id)
        assert sorted(run["info"]["run_name"] for run in runs) == ["dcgan", "ddpm", "vae"]
        run_id = runs[0]["info"]["run_id"]
        picture = f"{url}/get-artifact?path=pictures/samples.png&run_uuid={run_id}"
        assert get(picture) == PNG
        follow_a_server(project, url)

        children = family_of(server)
        assert children
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0
        time.sleep(0.2)
        assert not [each for each in children if each.is_running()]
        assert ui.choose_port(port) == port
    assert "stopping" in printed
    assert "Traceback" not in "\n".join(printed)


def follow_a_server(project: Project, url: str) -> None:
    """Track to a server: what it has is unchanged, and what is new gets there with its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", url)
        client = MlflowClient(tracking_uri=url)
        ids = list(mirror.tracked(url).values())
        before = [run.to_dictionary() for run in client.search_runs(ids)]
        track()
        assert [run.to_dictionary() for run in client.search_runs(ids)] == before
        project.retrain("vae", "2")
        project.write_metrics("vae", protocol="other")
        track()
        found = mirror.tracked(url)
        (run,) = client.search_runs([found["mnist-5k · other"]])
        picture = f"{url}/get-artifact?path=pictures/samples.png&run_uuid={run.info.run_id}"
        assert get(picture) == PNG


def test_server_of_others_is_not_started_again(project, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@example.org/")
    monkeypatch.setattr(mirror, "tracked", lambda _: {"digits · 1": "7"})
    ui.serve(None)
    page = "http://***@example.org/#/experiments/7/runs?workflowType=machine_learning"
    assert capsys.readouterr().out.splitlines() == [
        f"digits · 1, Leaderboard: {page}&viewStateShareKey=leaderboard",
        f"digits · 1, Families: {page}&viewStateShareKey=families&compareRunsMode=CHART",
    ]
