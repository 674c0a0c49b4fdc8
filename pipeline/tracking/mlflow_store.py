"""The store of runs: this folder's SQLite file, or what MLFLOW_TRACKING_URI names."""

import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import runs as tracking_runs
from pipeline.tracking import sqlite_file

if TYPE_CHECKING:
    # Importing MLflow takes seconds, so what only needs a link does not wait for it.
    from mlflow import MlflowClient

VARIABLE = "MLFLOW_TRACKING_URI"
LOCK_SECONDS = 300
CONNECT_SECONDS = 10.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
"""Where databases listen unless the URI says so."""

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow's own settings wait for minutes before they say that a server is down.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""Environment of MLflow; what a person has set wins."""

CHATTER = {
    "alembic": logging.WARNING,
    "mlflow.pyfunc": logging.WARNING,
    # What MLflow raises is told in one line; it logs it before, with its traceback.
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.utils.databricks_utils": logging.CRITICAL,
    "urllib3.connectionpool": logging.ERROR,
}
"""Loggers of libraries, and what is still worth printing of them."""


def uri() -> str:
    """What MLFLOW_TRACKING_URI says if it is set, else the SQLite file of this folder."""
    return os.environ.get(VARIABLE) or sqlite_file.uri_of(paths.MLFLOW_DB)


def is_server(store: str) -> bool:
    """Whether a store is reached over HTTP, so that others look after it."""
    return store.startswith(("http://", "https://"))


def artifact_root() -> str:
    """Where runs of a local store keep their files, as an absolute URI."""
    return paths.MLFLOW_ARTIFACTS.absolute().as_uri()


@contextmanager
def opened(store: str) -> "Iterator[MlflowClient]":
    """A client of a store, which this folder's processes use one at a time.

    It is without MLflow's telemetry, minutes of retries and chatter. A file is looked at first, and
    if it came here from another folder, it names places in this one from now on.

    Args:
        store: its URI.

    Raises:
        PipelineError: if the store cannot be used, and for what MLflow, its database or the network
            raise in the block.
    """
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)  # before the import, which starts the telemetry
    with _locked(), _in_one_line(store):
        # The client keeps no file open, so that one which was deleted is missed, and made again.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
        from mlflow import MlflowClient

        for name, level in CHATTER.items():
            logging.getLogger(name).setLevel(level)
        path = _file(store)
        if path is None:
            _knock(store)
        else:
            sqlite_file.check(path, store)
            sqlite_file.create(path)
        if path == paths.MLFLOW_DB:
            root = paths.MLFLOW_ARTIFACTS.absolute()
            told = sqlite_file.repoint(path, root, tracking_runs.place())
            if told:
                print(told)
        yield MlflowClient(tracking_uri=store, registry_uri=store)


def without_password(text: str) -> str:
    """A text without the passwords of the URLs in it."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


@contextmanager
def _locked() -> Iterator[None]:
    """Let in one process at a time, so that none sees what another has half done."""
    lock = FileLock(paths.LOCKS / "mlflow.lock", timeout=LOCK_SECONDS)
    try:
        paths.LOCKS.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise PipelineError(
            f"another process has held {lock.lock_file} for {LOCK_SECONDS} s; stop it first"
        ) from None
    except OSError as error:
        raise PipelineError(f"{lock.lock_file}: cannot be made: {files.reason(error)}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _in_one_line(store: str) -> Iterator[None]:
    """Tell in one line what MLflow, its database or the network raise."""
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import ArgumentError, SQLAlchemyError

    try:
        urlsplit(store)
    except ValueError as error:
        raise PipelineError(f"{VARIABLE} = {without_password(store)}: {error}") from None
    try:
        yield
    except ArgumentError:
        raise PipelineError(
            f"{VARIABLE} = {without_password(store)}: no URI of a store; that of a file is "
            "sqlite:///path/of/mlflow.db"
        ) from None
    except (
        MlflowException,
        SQLAlchemyError,
        OSError,
        ImportError,
        json.JSONDecodeError,  # what answers is no server of MLflow's
        ParseError,
    ) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        path = _file(store)
        if path is not None and isinstance(error, MlflowException | SQLAlchemyError):
            sqlite_file.diagnose(path, store, str(error))
        hint = f"; is the server that {VARIABLE} names up?" if is_server(store) else ""
        raise PipelineError(without_password(f"MLflow at {store}: {said}{hint}")) from None


def _file(store: str) -> Path | None:
    """The file of a store, this folder's own by its short name; None if it is none."""
    path = sqlite_file.path_of(store)
    return paths.MLFLOW_DB if path == paths.MLFLOW_DB.absolute() else path


def _knock(store: str) -> None:
    """See whether a database's server is there at all, which MLflow tries for two minutes.

    Raises:
        OSError: if nobody listens.
    """
    found = urlsplit(store)
    port = PORTS.get(found.scheme.partition("+")[0])
    if port and found.hostname:
        address = found.hostname, found.port or port
        socket.create_connection(address, timeout=CONNECT_SECONDS).close()
