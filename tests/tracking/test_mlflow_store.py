import http.server
import logging
import os
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import mlflow
import pytest
from alembic import command
from alembic.config import Config
from mlflow.store.db import utils
from sqlalchemy.exc import OperationalError
from tracked import all_runs, child_environment, client, current, track
from tracked import fresh as fresh
from tracked import migrated as migrated
from tracked import project as project

from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.tracking import mlflow_store, sqlite_file

SECONDS = 15
MIDDLE = "6953534de441"
"""A schema of MLflow 1."""


@pytest.fixture
def refused(capfd, caplog):
    """The one line by which `track` ends within seconds, with the store as it was."""

    def refuse():
        before = content()
        started = time.monotonic()
        with pytest.raises(PipelineError) as raised:
            track()
        assert time.monotonic() - started < SECONDS
        said = str(raised.value)
        assert "\n" not in said and "delete" not in said
        assert capfd.readouterr() == ("", "") and caplog.text == ""
        assert content() == before
        return said

    return refuse


def content():
    return paths.MLFLOW_DB.read_bytes() if paths.MLFLOW_DB.is_file() else None


def execute(*statements):
    with closing(sqlite3.connect(paths.MLFLOW_DB)) as database, database:
        for each in statements:
            database.execute(each)


def register(*names):
    for name in names:
        client().create_registered_model(name)


def old_store(revision):
    """An empty store as a former version of MLflow left it."""
    paths.MLFLOW_DB.unlink()
    config = Config()
    config.set_main_option(
        "script_location", str(Path(mlflow.__file__).parent / "store" / "db_migrations")
    )
    engine = utils.create_sqlalchemy_engine(mlflow_store.uri())
    utils.InitialBase.metadata.create_all(engine)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()


@contextmanager
def held():
    """The store while another process writes to it."""
    code = "import sqlite3,sys; d=sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    code += "d.execute('begin exclusive'); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(paths.MLFLOW_DB)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert other.stdout.readline() == b"held\n"
        yield
    finally:
        other.communicate()


def test_a_store_that_another_process_has_locked_is_in_use(project, refused, capfd):
    track()
    capfd.readouterr()
    with held():
        assert refused() == (
            "mlflow.db: in use by another process, which has locked it; wait for it or stop it"
        )
    track()
    assert len(all_runs()) == 3


def test_a_store_that_is_locked_later_is_in_use(project):
    error = OperationalError("update runs", {}, sqlite3.OperationalError("database is locked"))
    with (
        pytest.raises(PipelineError, match=r"^mlflow.db: in use by another process"),
        mlflow_store.opened(mlflow_store.uri()),
    ):
        raise error


def a_directory(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_link_to_nowhere(path):
    path.symlink_to("nowhere/mlflow.db")


def a_link_to_itself(path):
    path.symlink_to(path.name)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (a_directory, "it is a directory"),
        (a_pipe, "it is not a file"),
        (a_link_to_nowhere, "a link to nowhere/mlflow.db, which is none"),
        (a_link_to_itself, "a link to mlflow.db, which is none"),
    ],
)
def test_what_is_no_file_cannot_be_opened(fresh, refused, make, reason):
    make(paths.MLFLOW_DB)
    assert refused() == f"mlflow.db: cannot be opened: {reason}"


@pytest.mark.parametrize("name", ["mlflow.db", "."])
@pytest.mark.parametrize(("mode", "word"), [(os.W_OK, "writable"), (os.R_OK, "readable")])
def test_what_may_not_be_read_or_written_cannot_be_opened(
    project, refused, monkeypatch, name, mode, word
):
    locked = Path(name)

    def access(path, asked):
        return not (asked == mode and Path(path).absolute() == locked.absolute())

    monkeypatch.setattr(os, "access", access)
    said = refused()
    assert said.startswith("mlflow.db: cannot be opened: ") and said.endswith(f"is not {word}")


def test_a_file_that_is_no_database_is_damaged(project, refused):
    paths.MLFLOW_DB.write_text("not a database " * 100)
    assert refused() == (
        "mlflow.db: damaged (file is not a database); move it away, and the next run fills it "
        "again; lost are the runs of earlier versions and all registered models"
    )


def test_a_damaged_store_names_the_models_that_would_be_lost(project, refused):
    register("ddpm", "vae")
    with closing(sqlite3.connect(paths.MLFLOW_DB)) as database:
        size = database.execute("pragma page_size").fetchone()[0]
        page = database.execute(
            "select rootpage from sqlite_master where name = 'webhooks'"
        ).fetchone()[0]
    with paths.MLFLOW_DB.open("r+b") as stream:
        stream.seek(size * (page - 1))
        stream.write(b"\xff" * size)
    said = refused()
    assert said.startswith("mlflow.db: damaged (")
    assert said.endswith(
        "; move it away, and the next run fills it again; lost are the runs of earlier versions "
        "and the registered models ddpm, vae"
    )


def test_a_store_that_was_cut_is_damaged(project, refused):
    whole = paths.MLFLOW_DB.read_bytes()
    paths.MLFLOW_DB.write_bytes(whole[: len(whole) // 2])
    assert refused().startswith("mlflow.db: damaged (")


def test_damage_that_mlflow_finds_first_is_told_alike(project):
    track()
    whole = paths.MLFLOW_DB.read_bytes()
    with (
        pytest.raises(PipelineError, match=r"^mlflow.db: damaged .*move it away"),
        mlflow_store.opened(mlflow_store.uri()),
    ):
        paths.MLFLOW_DB.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
        raise OperationalError("select", {}, sqlite3.DatabaseError("malformed"))


def test_what_was_moved_away_is_filled_again(project, capsys):
    track()
    paths.MLFLOW_DB.rename("damaged.db")
    track()
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]
    assert capsys.readouterr().out.count(": new") == 6


def test_a_journal_of_another_file_is_not_taken_for_the_new_ones(fresh):
    """SQLite would roll it back into the new file."""
    Path("mlflow.db-journal").write_bytes(b"of a file that was moved away")
    sqlite_file.create(paths.MLFLOW_DB)
    assert [path.name for path in Path().glob("mlflow*")] == ["mlflow.db"]


@pytest.mark.slow
def test_an_older_store_is_upgraded_by_the_command_that_is_told(project, refused):
    old_store(MIDDLE)
    execute("insert into experiments values (7, 'mine', 'file:///mine', 'active', 1, 1)",
            "insert into runs (run_uuid, name, status, experiment_id, lifecycle_stage, user_id, "
            "start_time) values ('a', 'kept', 'FINISHED', 7, 'active', 'me', 1)")  # fmt: skip
    said = refused()
    assert said.startswith(f"mlflow.db: of an older MLflow (schema {MIDDLE}); copy it, then run `")
    program, *arguments = shlex.split(said.partition("`")[2].partition("`")[0])
    assert [program, *arguments[:2]] == ["mlflow", "db", "upgrade"]
    subprocess.run(
        [sys.executable, "-m", program, *arguments], check=True, timeout=120, capture_output=True
    )
    track()
    with closing(sqlite3.connect(paths.MLFLOW_DB)) as database:
        assert database.execute("select name from runs where run_uuid = 'a'").fetchall()
    assert {"dcgan", "ddpm", "vae"} <= {run.data.tags.get("model") for run in all_runs()}


def test_a_newer_store_asks_for_the_newer_mlflow(project, refused, capfd):
    track()
    execute("update alembic_version set version_num = 'ffffffffffff'")
    sqlite_file._sound.clear()
    capfd.readouterr()
    said = refused()
    assert said == (
        "mlflow.db: written by a newer MLflow (schema ffffffffffff, which "
        f"{mlflow.__version__} does not know); install that one"
    )


def test_a_store_that_was_left_half_made_is_told(project, refused):
    old_store(MIDDLE)
    assert refused() == (
        f"mlflow.db: half made, or of another MLflow (schema {MIDDLE}), and without any run; move "
        "it away, nothing is lost"
    )


def test_a_database_of_others_is_left_alone(project, refused):
    paths.MLFLOW_DB.unlink()
    execute("create table birds (name text)", "create table nests (place text)")
    assert refused() == (
        "mlflow.db: not a store of MLflow's (it holds birds, nests); name another file"
    )


def test_an_empty_file_is_filled(fresh):
    paths.MLFLOW_DB.touch()
    track()
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]


def test_a_store_is_made_whole_or_not_at_all(fresh, monkeypatch):
    def stopped(engine):
        utils.InitialBase.metadata.create_all(engine)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(utils, "_initialize_tables", stopped)
        track()
    assert not [path for path in Path().iterdir() if "mlflow" in path.name]
    track()
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]


def test_a_file_that_is_named_is_looked_at_too(project, monkeypatch, tmp_path, refused):
    for name, reason in (("a folder", "it is a directory"), ("x/y", "made: ")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / name}")
        (tmp_path / "a folder").mkdir(exist_ok=True)
        (tmp_path / "x").touch()
        said = refused()
        assert str(tmp_path / name) in said and reason in said


def test_a_file_that_is_named_is_made_with_its_folder(project, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new/place/my 100%25.db")
    track()
    assert (tmp_path / "new" / "place" / "my 100%.db").exists()
    assert sorted(current()) == ["dcgan", "ddpm", "vae"]


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("./mlruns", "maintenance mode"),
        ("foo://bar", "unsupported URI"),
        ("sqlite:mlflow.db", "that of a file is sqlite:///path/of/mlflow.db"),
        ("http://[bad", "MLFLOW_TRACKING_URI = http://[bad: "),
        ("databricks", "MLflow at databricks: "),
        ("postgresql://me:secret@127.0.0.1:1/x", "MLflow at postgresql://***@127.0.0.1:1/x: "),
        ("http://me:secret@127.0.0.1:1", "MLflow at http://***@127.0.0.1:1: "),
    ],
)
def test_a_store_that_cannot_be_is_one_line(project, monkeypatch, refused, uri, reason):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    said = refused()
    assert reason in said and "secret" not in said


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"{}", b"[1]", b'{"experiments": 3}'])
def test_another_server_is_one_line(project, monkeypatch, body):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(PipelineError) as raised:
            track()
        server.shutdown()
    assert str(raised.value).startswith(f"MLflow at {uri}: ")
    assert "\n" not in str(raised.value)


def test_a_server_of_a_database_that_is_down_is_told_at_once(project, monkeypatch):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        mlflow_store._knock(f"postgresql+psycopg2://me@127.0.0.1:{port}/x")


def test_a_lock_that_cannot_be_made_is_one_line(project):
    shutil.rmtree(paths.WORK, ignore_errors=True)
    paths.WORK.write_text("a file")
    with pytest.raises(PipelineError, match=r"^work/locks/mlflow.lock: cannot be made: "):
        track()


def test_a_stage_says_it_in_one_line(project):
    shutil.rmtree(paths.MLFLOW_ARTIFACTS, ignore_errors=True)
    paths.MLFLOW_DB.unlink()
    paths.MLFLOW_DB.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "ui"],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "error: mlflow.db: cannot be opened: it is a directory\n"
