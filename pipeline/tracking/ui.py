"""Serve MLflow's pages over the store that `pipeline.tracking.mirror` wrote, on loopback."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pipeline.core import params, paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import mirror, mlflow_store

HOST = "127.0.0.1"
FIRST_PORT = 5000
PORTS_TRIED = 100
START_SECONDS = 120
STOP_SECONDS = 10


def serve(port: int | None) -> None:
    """Start the server, print the links to the experiments, and wait for Ctrl-C.

    Where MLFLOW_TRACKING_URI names a server, that one has the pages: only print the links.

    Args:
        port: where to listen; None for 5000 or the next free one.

    Raises:
        PipelineError: if nothing was tracked yet, the port is taken, or the server fails.
    """
    uri = mlflow_store.uri()
    if not os.environ.get("MLFLOW_TRACKING_URI") and not paths.MLFLOW_DB.exists():
        raise PipelineError(f"{paths.MLFLOW_DB}: no such file; run `make repro` first")
    # Read from the store and not from the server, which a proxy may keep us from.
    experiments = _present_first(mirror.tracked(uri))
    if mlflow_store.is_server(uri):
        _print_links(uri, experiments)
        return
    port = choose_port(port)
    url = f"http://{HOST}:{port}"
    with _stopped_by_signals(), tempfile.TemporaryFile("w+") as log:
        server = _start(uri, port, log)
        try:
            print(f"starting MLflow on {url} ...", flush=True)
            _wait_until_healthy(server, port, log)
            _print_links(url, experiments)
            print("stop it with Ctrl-C", flush=True)
            server.wait()
            raise PipelineError(f"the MLflow server ended by itself: {_reason(log)}")
        except KeyboardInterrupt:
            print("\nstopping")
        finally:
            _stop(server)


def choose_port(wanted: int | None) -> int:
    """The port that was asked for, or else 5000 or the next free one.

    Raises:
        PipelineError: if the port that was asked for is taken, or all that were tried are.
    """
    if wanted is not None:
        if not _free(wanted):
            raise PipelineError(f"port {wanted} is taken; name another, or none to have one found")
        return wanted
    for port in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if _free(port):
            if port != FIRST_PORT:
                print(f"port {FIRST_PORT} is taken, using {port}")
            return port
    raise PipelineError(f"ports {FIRST_PORT} to {port} are all taken; name one that is free")


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server will do: a port whose last connections linger is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError):
            return False
    return True


def _start(uri: str, port: int, log: IO[str]) -> subprocess.Popen:
    """Start the lean server: 2 processes and 0.4 GB instead of 15 and 2.3 GB.

    It is a group of its own, so that Ctrl-C reaches this process alone, which then ends them all.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", HOST, "--port", str(port), "--backend-store-uri", uri]
    command += ["--artifacts-destination", mlflow_store.artifact_root()]
    settings = {**mlflow_store.SETTINGS, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(
        command,
        env={**settings, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _stop(server: subprocess.Popen) -> None:
    """End the server and its workers, the hard way if they linger."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(STOP_SECONDS)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _wait_until_healthy(server: subprocess.Popen, port: int, log: IO[str]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise PipelineError(f"the MLflow server did not start: {_reason(log)}")
        if _healthy(port):
            return
        time.sleep(0.2)
    raise PipelineError(f"the MLflow server did not answer for {START_SECONDS} s")


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _present_first(experiments: dict[str, str]) -> dict[str, str]:
    """Experiments of the data set that params.yaml is of before those of others."""
    try:
        title = params.results(params.read()).title
    except PipelineError:
        return experiments  # the runs can be looked at without it
    return dict(sorted(experiments.items(), key=lambda each: not each[0].startswith(f"{title} ·")))


def _print_links(url: str, experiments: dict[str, str]) -> None:
    for name, experiment_id in experiments.items():
        for view, address in mirror.view_urls(url, experiment_id).items():
            print(f"{name}, {view}: {address}")
    if not experiments:
        print(f"{url}: nothing was tracked yet; run `make repro`")


def _reason(log: IO[str]) -> str:
    """What the server said about its end: its last error, or else its last line."""
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1]


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Let a closed terminal and `kill` stop the server as Ctrl-C does, or it would live on."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def interrupt(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not stop the stopping
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
