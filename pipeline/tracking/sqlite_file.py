"""MLflow's store as a SQLite file: looked at before MLflow touches it, which takes minutes to say
that it cannot open one, and migrates or fills whatever it finds.

What is said of a file is what holds of it: in use, not to be opened, of another MLflow, or damaged.
Only what is damaged or empty is to be moved away, and then it is said what would be lost.
"""

import functools
import os
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from pipeline.core import files
from pipeline.core.errors import PipelineError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

BUSY_SECONDS = 5.0
"""How long to wait for another process."""
BUSY, CORRUPT, NOT_A_DATABASE = (
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED},
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
)
SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file."""
# Statements are made of names of tables and columns that stand in this file (bandit: B608).
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("trace_tags", "value"),
)
"""Columns that name places of files."""
MLFLOWS_OWN = "mlruns"
"""The folder beside the store where MLflow itself keeps files of experiments that are not ours."""

_sound: set[Path] = set()
"""Files that this process has looked through: where they are large, that takes seconds."""


def path_of(uri: str) -> Path | None:
    """The file of a store; None if it is kept elsewhere, such as in memory or by a server.

    Raises:
        sqlalchemy.exc.ArgumentError: if it is no URI of a database.
    """
    from sqlalchemy import make_url

    if not uri.startswith("sqlite"):
        return None
    name = make_url(uri).database
    return None if name in (None, "", ":memory:") or name.startswith("file:") else Path(name)


def check(path: Path, uri: str) -> None:
    """Look whether MLflow can use a file, or make one there.

    Args:
        path: the file.
        uri: by which MLflow knows it.

    Raises:
        PipelineError: if not, with what it is and what to do.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "not a file"
            raise PipelineError(f"{path}: cannot be opened: it is {kind}")
        if not _filled(path):
            _refuse_place(path)
            return
        _refuse_access(path, path.parent)
    except OSError as error:
        raise PipelineError(f"{path}: cannot be opened: {files.reason(error)}") from None
    with _told(path), closing(_connect(path)) as database:
        database.execute("begin immediate")  # whoever cannot do this cannot write
        if path.resolve() in _sound:
            return
        found = database.execute("pragma quick_check(1)").fetchone()[0]
        if found != "ok":
            raise _damaged(path, found)
        _check_schema(database, path, uri)
        _sound.add(path.resolve())


def diagnose(path: Path, uri: str, said: str) -> None:
    """Look again after MLflow failed.

    Args:
        path: the file.
        uri: by which MLflow knows it.
        said: what it said.

    Raises:
        PipelineError: if the file is to blame.
    """
    if "database is locked" in said:
        raise _in_use(path)
    _sound.discard(path.resolve())
    check(path, uri)


def create(path: Path) -> None:
    """Make an empty store where there is no file, or one without content.

    MLflow makes one by a thousand statements: if it is stopped between two of them, it never opens
    the file again. Here it appears whole or not at all.

    Raises:
        PipelineError: if it cannot be written.
    """
    path = path.resolve()
    if _filled(path):
        return
    # Projects in other folders may have been told of the same file.
    lock = Path(tempfile.gettempdir()) / f"mlflow-{files.sha256_of(str(path))[:16]}.lock"
    with FileLock(lock):
        if _filled(path):
            return
        for suffix in SIDE_FILES:  # SQLite would take another file's journal for this one's
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with files.replacing(path) as temporary:
            _initialise(temporary)


def _initialise(path: Path) -> None:
    from mlflow.store.db import utils
    from sqlalchemy import event

    engine = utils.create_sqlalchemy_engine(uri_of(path))
    # No journal beside a temporary file, since nobody removes it if this process is killed.
    event.listen(engine, "connect", lambda each, _: each.execute("pragma journal_mode=memory"))
    try:
        utils._initialize_tables(engine)
    finally:
        engine.dispose()


def _filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def uri_of(path: Path) -> str:
    """The URI of a file."""
    return f"sqlite:///{str(path.absolute()).replace('%', '%25')}"


def repoint(path: Path, root: Path, place: str) -> str | None:
    """Let a store name places in this folder, if it came with files from another one.

    MLflow stores absolute places, so that a project which was moved or copied would go on writing
    into its old folder. What lies there alone, of a folder that has no store of its own, stays.

    Args:
        path: the store.
        root: where runs of this folder keep their files, absolute.
        place: what runs name this folder (`pipeline.tracking.runs.place`).

    Returns:
        A line for people, or None if nothing was changed.

    Raises:
        PipelineError: if the store cannot be read or written.
    """
    with _told(path), closing(_connect(path)) as database:
        tables = _tables(database)
        if "experiment_tags" not in tables:
            return None
        old = [each for each in _roots(database, root.name) if not _same(each, root)]
        if not old:
            return None
        database.execute("begin immediate")
        changed = {table: 0 for table, _ in LOCATIONS}
        absent = 0
        for table, column in LOCATIONS:
            for row, value in _values(database, table, column) if table in tables else ():
                moved = _moved(value, old, root, always=table == "experiments")
                if moved is not None:
                    statement = f"update {table} set {column} = ? where rowid = ?"
                    database.execute(statement, (moved, row))
                    changed[table] += column != "storage_location"
                    absent += table == "runs" and not _local(moved).exists()
        machine = place.partition(":")[0]
        for each in old:
            # Trainings that were followed there are none of this folder, which closes their runs.
            database.execute(
                "update tags set value = ? where key = 'followed_from' and value = ?",
                (place, f"{machine}:{each.parent}"),
            )
        database.execute("commit")
    if not any(changed.values()):
        return None
    names = {"experiments": "experiments", "runs": "runs", "model_versions": "registered versions"}
    counted = ", ".join(f"{changed[table]} {name}" for table, name in names.items())
    missing = ""
    if absent and old[0].exists():
        missing = f"; of {absent} runs the files are not here: copy {old[0]}, too"
    return f"{path}: came from {old[0].parent}; {counted} now have their files in {root}{missing}"


def _connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
    )


def _refuse_place(path: Path) -> None:
    """Refuse a file that is not there, and cannot be made."""
    if path.is_symlink() and not path.exists():
        raise PipelineError(f"{path}: cannot be opened: a link to {path.readlink()}, which is none")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise PipelineError(f"{path}: cannot be made: {folder} is not a directory")
    _refuse_access(folder, *([path] if path.exists() else []))


def _refuse_access(*needed: Path) -> None:
    for each in needed:
        for mode, word in ((os.R_OK, "readable"), (os.W_OK, "writable")):
            if not os.access(each, mode):
                raise PipelineError(f"{needed[0]}: cannot be opened: {each} is not {word}")


def _check_schema(database: sqlite3.Connection, path: Path, uri: str) -> None:
    import mlflow

    tables = _tables(database)
    if not tables:
        return
    if "experiments" not in tables and "alembic_version" not in tables:
        some = ", ".join(sorted(tables)[:3])
        raise PipelineError(f"{path}: not a store of MLflow's (it holds {some}); name another file")
    stored = None
    if "alembic_version" in tables:
        found = database.execute("select version_num from alembic_version").fetchone()
        stored = found[0] if found else None
    scripts = _migrations()
    if stored == scripts.get_current_head():
        return
    if not any(
        table in tables and database.execute(f"select 1 from {table} limit 1").fetchone()
        for table in ("runs", "registered_models")
    ):
        raise PipelineError(
            f"{path}: half made, or of another MLflow (schema {stored}), and without any run; move "
            "it away, nothing is lost"
        )
    if stored is None or stored in {each.revision for each in scripts.walk_revisions()}:
        raise PipelineError(
            f"{path}: of an older MLflow (schema {stored}); copy it, then run "
            f"`mlflow db upgrade {shlex.quote(uri)}`"
        )
    raise PipelineError(
        f"{path}: written by a newer MLflow (schema {stored}, which {mlflow.__version__} does not "
        "know); install that one"
    )


@functools.cache
def _migrations() -> "ScriptDirectory":
    """MLflow's migrations, whose scripts are imported one by one, once."""
    import mlflow
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))


def _tables(database: sqlite3.Connection) -> set[str]:
    return {
        name for (name,) in database.execute("select name from sqlite_master where type='table'")
    }


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell in one line what SQLite finds."""
    try:
        yield
    except sqlite3.Error as error:
        code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
        if code in BUSY:
            raise _in_use(path) from None
        if code in (CORRUPT, NOT_A_DATABASE):
            raise _damaged(path, str(error)) from None
        raise PipelineError(f"{path}: cannot be opened: {error}") from None


def _in_use(path: Path) -> PipelineError:
    return PipelineError(
        f"{path}: in use by another process, which has locked it; wait for it or stop it"
    )


def _damaged(path: Path, reason: str) -> PipelineError:
    reason = reason.strip().splitlines()[-1]
    lost = _registered(path)
    models = "all registered models" if lost is None else f"the registered models {', '.join(lost)}"
    journals = [f"{path}{each}" for each in SIDE_FILES if Path(f"{path}{each}").exists()]
    what = " and ".join(["it", *journals])
    return PipelineError(
        f"{path}: damaged ({reason}); move {what} away, and the next run fills it again; lost are "
        f"the runs of earlier versions{'' if lost == [] else f' and {models}'}"
    )


def _registered(path: Path) -> list[str] | None:
    """Names of the registered models, or None if they cannot be read."""
    with suppress(sqlite3.Error), closing(_connect(path, "ro")) as database:
        found = database.execute("select name from registered_models order by name")
        return [name for (name,) in found]
    return None


def _roots(database: sqlite3.Connection, name: str) -> list[Path]:
    """Folders called ``name`` in which our experiments and their runs keep files."""
    ours = "experiment_id in (select experiment_id from experiment_tags where key = 'protocol')"
    found = database.execute(
        f"select artifact_location from experiments where {ours} "
        f"union select artifact_uri from runs where {ours}"
    )
    roots = set()
    for (value,) in found:
        place = _local(value)
        if place is not None:
            roots |= {each for each in (place, *place.parents) if each.name == name}
    return sorted(roots)


def _local(value: str | None) -> Path | None:
    """The place on this machine that a URI or path names."""
    if value and value.startswith("file:"):
        return Path(unquote(urlsplit(value).path))
    return Path(value) if value and value.startswith("/") else None


def _same(one: Path, other: Path) -> bool:
    with suppress(OSError):
        return one == other or one.samefile(other)
    return False


def _values(database: sqlite3.Connection, table: str, column: str) -> list[tuple[int, str]]:
    return database.execute(
        f"select rowid, {column} from {table} where {column} is not null"
    ).fetchall()


def _moved(value: str, old: list[Path], root: Path, *, always: bool) -> str | None:
    """What names the same file below ``root``, or None if it names none of the old folder's."""
    place = _local(value)
    if place is None:
        return None
    for each in old:
        for before, after in (
            (each, root),
            (each.with_name(MLFLOWS_OWN), root.with_name(MLFLOWS_OWN)),
        ):
            if place.is_relative_to(before):
                here = after / place.relative_to(before)
                alone = place.exists() and not here.exists()
                if alone and not always and not each.with_name("mlflow.db").exists():
                    return None
                return here.as_uri() if value.startswith("file:") else str(here)
    return None
