"""Disks that are full or read-only and files that may not grow, while stages write.

A small tmpfs stands for ``data/``, ``metrics/``, ``work/``, TMPDIR or the whole project, and a
random number of bytes is left on it. A stage then ends with one line, and what it should have
replaced is whole: all old or all new. Afterwards, with space, it gives what it gives undisturbed.
"""

import json
import os
import shutil
import subprocess

import pytest
from faults import harness
from faults.test_kills import OUTPUTS

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("disks")]
FULL, READ_ONLY, TOO_LARGE = (
    "No space left on device",
    "Read-only file system",
    "File too large",
)
STAGES = [
    ("download", ""),
    ("preprocess", ""),
    ("domains", ""),
    ("judge", ""),
    ("reference", ""),
    ("train", "vae"),
    ("train", "cyclegan"),
    ("sample", "vae"),
    ("sample", "cyclegan"),
    ("evaluate", "vae"),
    ("evaluate", "cyclegan"),
]
PAGE = 4096


class Project:
    """A small project whose stages have run, one after the other, without DVC."""

    def __init__(self, server, folder):
        self.server = server
        self.folder = harness.small(folder, ("vae", "cyclegan")).folder
        self.whole = {}
        for stage, model in STAGES:
            self.run(stage, model).succeeded()
            self.whole[stage, model] = self.state(stage, model)
        (self.folder / "work").mkdir(exist_ok=True)

    def run(self, stage, model, **options):
        command = [f"stages.{stage}", *([model] if model else [])]
        return self.server.call(self.folder, *command, **options)

    def outputs(self, stage, model):
        return [self.folder / each.format(model) for each in OUTPUTS[stage]]

    def state(self, stage, model):
        return [harness.hashes(path) for path in self.outputs(stage, model)]

    def size(self, stage, model, disk):
        """Bytes that a stage writes to a disk, in whole pages."""
        names = [
            name
            for path in self.outputs(stage, model)
            if path.is_relative_to(self.folder / disk)
            for name in harness.hashes(path)
        ]
        return sum(
            -(-os.path.getsize(name) // PAGE) * PAGE for name in names if os.path.isfile(name)
        )

    def age(self, stage, model):
        """Put something older into the place of what a stage gave, and return its state."""
        for path in self.outputs(stage, model):
            folder = path.is_dir()
            harness.remove(path)
            if folder:
                path.mkdir()
            (path / "old" if folder else path).write_text("of an older version\n")
        return self.state(stage, model)

    def fails_well(self, stage, model, reason, told, **options):
        """Run a stage that may fail for ``reason``; whether it did."""
        old = self.age(stage, model)
        done = self.run(stage, model, **options)
        now = self.state(stage, model)
        told = f"{told}, FAULT_SEED={harness.SEED}\n{done}"
        assert done.code in (0, 1), told
        done.calm()
        if done.code == 0:
            assert now == self.whole[stage, model], told
        else:
            assert len(done.errors) == 1, told
            assert f"cannot be written: {reason}" in done.errors[0], told
            assert now == old, f"not all of the old results are there\n{told}"
        assert harness.temporaries(self.folder) == [], told
        return done.code != 0

    def recovers(self, stage, model):
        self.run(stage, model).succeeded()
        assert self.state(stage, model) == self.whole[stage, model]
        assert harness.temporaries(self.folder) == []


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    return Project(server, tmp_path_factory.mktemp("disks") / "project")


@pytest.fixture
def project(undisturbed):
    """The project, which is whole again for the next test, whatever this one finds."""
    yield undisturbed
    for stage, model in STAGES:
        if undisturbed.state(stage, model) != undisturbed.whole[stage, model]:
            undisturbed.run(stage, model)


@pytest.mark.parametrize("disk", ["data", "metrics"])
def test_a_stage_on_a_full_disk_leaves_the_old_results_whole(project, disk, chance, count):
    failed = 0
    with harness.small_disk(project.folder / disk, "64m"):
        for stage, model in STAGES:
            size = project.size(stage, model, disk)
            if not size:
                continue
            for free in (0, chance.randrange(0, size), chance.randrange(0, size)):
                project.age(stage, model)  # what it frees must not count
                harness.fill(project.folder / disk, free)
                told = f"{stage} {model} with {free} of {size} bytes on {disk}/"
                failed += project.fails_well(stage, model, FULL, told)
                count("full disks")
                harness.empty(project.folder / disk)
                project.recovers(stage, model)
    assert failed >= 8


@pytest.mark.parametrize(
    ("stage", "model"), [each for each in STAGES if each[1] == "vae" or not each[1]]
)
def test_a_write_that_fails_leaves_all_old_or_all_new(
    project, stage, model, tmp_path, chance, count
):
    """Each file that is opened, each folder that is made and each move to its place, in turn."""
    step = 3 if stage in ("judge", "reference", "evaluate") else 1  # these take longer
    for place in range(chance.randint(1, step), 60, step):
        old = project.age(stage, model)
        mark = tmp_path / str(place)
        done = project.run(stage, model, fail_at=[place, str(mark)])
        now = project.state(stage, model)
        told = f"change {place} of the disk, FAULT_SEED={harness.SEED}\n{done}"
        done.calm()
        assert harness.temporaries(project.folder) == [], told
        if done.code == 0:
            assert now == project.whole[stage, model], told
            if not mark.exists():
                break  # it has fewer
        else:
            assert done.code == 1 and len(done.errors) == 1, told
            assert FULL in done.errors[0], told
            assert now == old, told
        count("writes that fail")
    assert place < 57


@pytest.mark.parametrize("disk", ["data", "metrics"])
def test_a_stage_on_a_read_only_disk_says_so(project, disk, count):
    folder = project.folder / disk
    with harness.small_disk(folder, "64m"):
        for stage, model in STAGES:
            if not project.size(stage, model, disk):
                continue
            before = project.state(stage, model)
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            done = project.run(stage, model)
            subprocess.run(["mount", "-o", "remount,rw", folder], check=True)
            count("read-only disks")
            assert done.code == 1, done
            (line,) = done.calm().errors
            assert READ_ONLY in line, done
            assert project.state(stage, model) == before, done
            assert harness.temporaries(project.folder) == []


@pytest.mark.parametrize(("stage", "model"), STAGES)
def test_a_stage_whose_files_may_not_grow_says_so(project, stage, model, chance, count):
    sizes = [
        os.path.getsize(name)
        for path in project.outputs(stage, model)
        for name in harness.hashes(path)
        if os.path.isfile(name)
    ]
    most = max(sizes)
    # Of a file that is nearly whole, what is left may be in a buffer when nobody looks any more.
    for largest in (chance.randrange(PAGE, max(most, PAGE + 1)), most - 1, most - 100):
        largest = max(largest, PAGE)  # its own output is a file, too
        told = f"{stage} {model} with files of {largest} bytes at most"
        failed = project.fails_well(stage, model, TOO_LARGE, told, largest=largest)
        assert failed or largest >= most or stage == "train", told
        count("limits of file size")
    project.recovers(stage, model)


def test_a_training_goes_on_when_checkpoints_find_no_space(project, chance, count):
    with harness.small_disk(project.folder / "work", "8m"):
        for _ in range(4):
            free = chance.choice([0, chance.randrange(1_000_000)])
            harness.fill(project.folder / "work", free)
            project.age("train", "vae")
            done = project.run("train", "vae").succeeded()
            count("full disks")
            assert project.state("train", "vae") == project.whole["train", "vae"], free
            assert all("cannot be written: No space left" in each for each in done.warnings), done
            assert free or done.warnings, done
            harness.empty(project.folder / "work")
            assert harness.temporaries(project.folder) == []


@pytest.mark.parametrize(
    ("stage", "model"), [("sample", "vae"), ("judge", ""), ("evaluate", "vae")]
)
def test_a_full_work_folder_stops_nothing(project, stage, model, count):
    with harness.small_disk(project.folder / "work", "1m"):
        harness.fill(project.folder / "work", 0)
        project.age(stage, model)
        done = project.run(stage, model).succeeded()
        count("full disks")
        assert project.state(stage, model) == project.whole[stage, model], done


def test_a_read_only_work_folder_is_told_in_one_line(project, count):
    before = project.state("train", "vae")
    work = project.folder / "work"
    with harness.small_disk(work, "1m"):
        shutil.rmtree(work / "locks", ignore_errors=True)
        subprocess.run(["mount", "-o", "remount,ro", work], check=True)
        done = project.run("train", "vae")
        subprocess.run(["mount", "-o", "remount,rw", work], check=True)
    count("read-only disks")
    done.calm()
    assert project.state("train", "vae") == before
    if done.code != 0:
        (line,) = done.errors
        assert "work" in line and READ_ONLY in line, done


def test_a_full_folder_of_temporary_files_stops_no_stage(project, tmp_path, count):
    place = tmp_path / "tmp"
    with harness.small_disk(place, "1m"):
        harness.fill(place, 0)
        for stage, model in STAGES:
            project.age(stage, model)
            project.run(stage, model, environment={"TMPDIR": str(place)}).succeeded()
            count("full disks")
            assert project.state(stage, model) == project.whole[stage, model]


# The whole project on one small disk, with DVC and MLflow.

WRITERS = [
    ("stages.compare",),
    ("stages.report",),
    ("stages.track",),
    ("pipeline", "docs"),
    ("pipeline", "gate"),
    ("pipeline", "evaluate-images", "data/samples/dcgan/samples.npy", "--name", "other"),
    ("pipeline", "register", "vae"),
]
JUDGES_ARE_THERE = {"leave_out": "pipeline.orchestration.repro:make_judges"}


@pytest.fixture
def on_a_small_disk(tmp_path_factory, tmp_path, worker_id):
    """A finished project that has a disk of its own."""
    finished = harness.finished(tmp_path_factory, worker_id)
    with harness.small_disk(tmp_path / "disk", "300m"):
        yield harness.copied(finished, tmp_path / "disk" / "project"), finished


def test_commands_on_a_full_disk_say_so_and_break_nothing(on_a_small_disk, server, count):
    clone, _ = on_a_small_disk
    server.call(clone.folder, "stages.track").succeeded()  # the store learns where it is
    (clone.folder / "mlflow.db").unlink()
    disk = clone.folder.parent
    rows = clone.folder / "metrics/mnist-5k/reference.json"
    # So few images make no judge whom the gate would believe.
    judges = {"ranks": True, "reasons": []}
    found = json.loads(rows.read_text())
    rows.write_text(json.dumps(found | {"judges": found["judges"] | judges}))
    for command in WRITERS:
        before = harness.tree(clone.folder, but=("work", ".dvc/tmp"))
        harness.fill(disk, 0)
        done = server.call(clone.folder, *command, **JUDGES_ARE_THERE)
        count("full disks")
        harness.empty(disk)
        assert done.code in (0, 1, 2), done
        assert len(done.calm().errors) == (0 if done.code == 0 else 1), done
        if done.code != 0:
            assert FULL in done.errors[0] or "disk is full" in done.errors[0], done
            after = harness.tree(clone.folder, but=("work", ".dvc/tmp", "mlflow.db", "mlartifacts"))
            assert after == {key: value for key, value in before.items() if key in after}, done
        server.call(clone.folder, *command, **JUDGES_ARE_THERE, seconds=120).succeeded()


@pytest.mark.parametrize("time_of_it", [1, 2])
def test_a_run_on_a_disk_that_fills_ends_the_same_afterwards(
    on_a_small_disk, time_of_it, chance, count
):
    clone, finished = on_a_small_disk
    disk = clone.folder.parent
    for name in (
        "data",
        ".dvc/cache",
        "metrics/mnist-5k/report",
        "metrics/mnist-5k/pictures",
        "mlflow.db",
        "work",
    ):
        harness.remove(clone.folder / name)
    for each in (*clone.folder.glob("metrics/mnist-5k/models/*"), clone.folder / "dvc.lock"):
        each.unlink()
    free = chance.randrange(1_000_000, 16_000_000)
    harness.fill(disk, free)
    done = clone.run("pipeline", "repro", "--jobs", "2", check=False)
    told = harness.Done(["pipeline", "repro"], done.returncode, done.stdout, done.stderr)
    count("full disks")
    harness.assert_none_runs(clone.folder)
    if told.code != 0:
        assert told.calm().errors, told
        assert FULL in told.err, f"{free} bytes were free, FAULT_SEED={harness.SEED}\n{told}"
    harness.empty(disk)
    clone.run("pipeline", "repro", "--jobs", "2")
    assert harness.differences(clone.folder, finished) == []
    assert harness.temporaries(clone.folder) == []
