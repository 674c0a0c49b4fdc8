"""Twenty rounds of whatever happens to a project, each ended by a run, and the results of a fresh
one at the end.

FAULT_ROUNDS sets their number.
"""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from faults import harness

pytestmark = pytest.mark.slow
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "20"))
MODELS = ("vae", "dcgan", "cyclegan")
DVC = ("dvc", "repro")
OURS = ("pipeline", "repro", "--jobs", "2")
CODE = (
    "pipeline/families/gan.py",
    "pipeline/families/vae.py",
    "pipeline/comparison/tables.py",
    "pipeline/report/page.py",
    "stages/compare.py",
    "stages/sample.py",
)
VALUES = {  # most of them of one model, since a round should take seconds
    ("models", "vae", "training", "learning_rate"): (0.001, 0.002, 0.003),
    ("models", "vae", "training", "images"): (48, 64, 80),
    ("models", "dcgan", "training", "images"): (48, 64, 80),
    ("models", "dcgan", "training", "learning_rate"): (0.001, 0.002),
    ("sample", "seed"): (0, 1),
}
OUTPUTS = (
    "data/models/{}",
    "data/samples/{}",
    "data/scores/{}",
    "metrics/mnist-5k/models/{}.json",
    "metrics/mnist-5k/curves/{}.csv",
    "metrics/mnist-5k/pictures/{}",
    "data/processed",
    "data/judge",
    "metrics/mnist-5k/reference.json",
    "metrics/mnist-5k/comparison.csv",
    "metrics/mnist-5k/report",
)
FILES = (
    "data/models/vae/weights.safetensors",
    "data/samples/dcgan/samples.npy",
    "data/processed/train.images.npy",
    "data/scores/vae/nats.npy",
)


class Soak:
    """A project, what is done to it, and what was done so far."""

    def __init__(self, server, folder, chance, count):
        self.server, self.clone = server, harness.opened(folder)
        self.folder, self.chance, self.count = folder, chance, count
        self.done = []

    def say(self, what):
        self.done.append(what)
        print(what, flush=True)

    def start(self, *command):
        binaries = os.path.dirname(sys.executable)
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
        }
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=self.folder,
            env=environment,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def ended(self, child, *command, codes=(0,)):
        """Wait for it; fail if it ends otherwise or shows a traceback."""
        out, _ = child.communicate(timeout=600)
        done = harness.Done([*command], child.returncode, out, "")
        assert child.returncode in codes, done
        done.calm()
        return done

    # What happens.

    def edit_a_parameter(self):
        place = self.chance.choice(list(VALUES))
        block = self.clone.params
        for key in place[:-1]:
            block = block[key]
        others = [value for value in VALUES[place] if value != block[place[-1]]]
        block[place[-1]] = value = self.chance.choice(others)
        self.clone.write_params()
        self.say(f"{'.'.join(place)} = {value}")

    def edit_a_comment(self):
        name = self.chance.choice(CODE)
        with (self.folder / name).open("a") as stream:
            stream.write(f"# {self.chance.random()}\n")
        self.say(f"a comment in {name}")

    def revert(self):
        harness.git(self.folder, "checkout", "--quiet", "--", "params.yaml", "pipeline", "stages")
        self.clone = harness.opened(self.folder)
        self.say("all edits reverted")

    def delete_an_output(self):
        name = self.chance.choice(OUTPUTS).format(self.chance.choice(MODELS))
        harness.remove(self.folder / name)
        self.say(f"{name} deleted")

    def delete_the_store(self):
        harness.remove(self.folder / "mlflow.db")
        self.say("mlflow.db deleted")

    def flip_a_bit(self):
        name = self.chance.choice(FILES)
        self._flip(self.folder / name)
        self.say(f"a bit of {name} flipped")

    def flip_a_bit_of_a_checkpoint(self):
        self.clone.params["models"]["vae"]["training"]["learning_rate"] = self.chance.random() / 100
        self.clone.write_params()
        before = set(self.folder.glob("work/vae-*.ckpt"))
        self.server.call(self.folder, "stages.train", "vae", kill_at=12)
        new = set(self.folder.glob("work/vae-*.ckpt")) - before
        for path in new:
            self._flip(path)
        self.count("damaged checkpoints", len(new))
        self.say(f"a training killed, a bit flipped in {len(new)} checkpoint")

    def _flip(self, path):
        if path.is_file() and path.stat().st_size:
            content = bytearray(path.read_bytes())
            content[self.chance.randrange(len(content))] ^= 1 << self.chance.randrange(8)
            path.write_bytes(content)

    def kill(self):
        self.edit_a_parameter()  # so that there is something to do
        command = self.chance.choice([DVC, OURS])
        after, group = self.chance.uniform(1, 12), self.chance.random() < 0.5
        child = self.start(*command)
        time.sleep(after)
        running = harness.processes_in(self.folder)
        if group:  # as a machine that goes down
            for each in running:
                each.kill()
        else:
            child.kill()
        child.communicate()
        harness.assert_none_runs(self.folder, 90)
        # Until somebody has taken note of its end, a process is still there for DVC.
        psutil.wait_procs(running, timeout=30)
        self.count("kills of runs")
        self.say(f"{command[0]} killed after {after:.1f} s{' with all it started' * group}")

    def stop(self):
        self.edit_a_parameter()
        after, name = self.chance.uniform(0.5, 9), self.chance.choice(["SIGINT", "SIGTERM"])
        child = self.start(*OURS)
        time.sleep(after)
        child.send_signal(getattr(signal, name))
        # Python ends by the signal itself before its first line and behind its last one, and by
        # SIGINT, which is 130 for a shell, if it was told while it ran a text as code (`exec`).
        codes = (0, 130, -getattr(signal, name), -signal.SIGINT)
        done = self.ended(child, *OURS, name, codes=codes)
        if done.code < 0 and after > 1.5:
            assert done.out.endswith("stopped\n") or "the report: " in done.out, done
        if done.code == 130:
            assert done.out.splitlines()[-1] == "stopped", done
        harness.assert_none_runs(self.folder, 10)
        self.count("stops of runs")
        self.say(f"{name} after {after:.1f} s")

    def run_two_at_once(self):
        self.edit_a_parameter()
        second = self.chance.choice([DVC, OURS])
        one = self.start(*OURS)
        time.sleep(self.chance.uniform(0, 3))
        other = self.start(*second)
        first, then = (
            self.ended(one, *OURS, codes=(0, 1)),
            self.ended(other, *second, codes=(0, 1, 255)),
        )
        assert 0 in (first.code, then.code), f"{first}\n{then}"
        self.say(f"two runs at once: {first.code}, and {second[0]} {then.code}")

    def edit_while_it_runs(self):
        self.edit_a_parameter()
        child = self.start(*OURS)
        time.sleep(self.chance.uniform(0.5, 6))
        self.edit_a_comment()
        done = self.ended(child, *OURS, codes=(0, 1))
        self.say(f"edited while it ran: {done.code}")

    def rounds(self, number):
        """What happens in so many rounds: everything, kills more often, in any order."""
        every = [
            self.edit_a_parameter,
            self.edit_a_comment,
            self.revert,
            self.delete_an_output,
            self.delete_an_output,
            self.delete_the_store,
            self.flip_a_bit,
            self.flip_a_bit,
            self.flip_a_bit_of_a_checkpoint,
            self.flip_a_bit_of_a_checkpoint,
            *[self.kill] * 5,
            *[self.stop] * 2,
            self.run_two_at_once,
            self.run_two_at_once,
            self.edit_while_it_runs,
        ]
        while number > 0:
            yield from self.chance.sample(every, min(number, len(every)))
            number -= len(every)

    def round(self, what):
        what()
        command = self.chance.choice([DVC, *[OURS] * 5])
        done = self.ended(self.start(*command), *command, codes=(0, 255))
        if (
            done.code == 255
        ):  # DVC writes its list of locks in place, so a kill may leave half of it
            assert command == DVC and "Unable to read RWLock-file" in done.out, done
            self.count("damaged locks of DVC")
            self.ended(self.start(*OURS), *OURS)
        harness.assert_none_runs(self.folder, 10)
        assert harness.temporaries(self.folder) == []


def test_a_project_survives_whatever_happens(server, tmp_path_factory, worker_id, chance, count):
    finished = harness.finished(tmp_path_factory, worker_id)
    folder = tmp_path_factory.mktemp("soak") / "project"
    harness.copied(finished, folder)
    soak = Soak(server, folder, chance, count)
    try:
        for number, what in enumerate(soak.rounds(ROUNDS), start=1):
            soak.say(f"round {number}")
            soak.round(what)
            count("rounds")
        soak.revert()
        soak.ended(soak.start(*OURS), *OURS)
    except BaseException as error:
        done = "\n".join(soak.done)
        raise AssertionError(f"FAULT_SEED={harness.SEED}\n{done}\n{error}") from error
    told = f"FAULT_SEED={harness.SEED}\n" + "\n".join(soak.done)
    assert harness.differences(folder, finished) == [], told
    assert harness.git(folder, "status", "--porcelain") == "", told
    assert harness.temporaries(folder) == [], told
    harness.assert_none_runs(folder)
    assert "didn't change" in soak.ended(soak.start("dvc", "repro", "--dry"), "dvc").out


def test_what_a_killed_process_left_does_not_count_for_dvc(
    tmp_path_factory, worker_id, tmp_path, count
):
    """Folders of results are what `compare` depends on; what is left in them is no result."""
    finished = harness.finished(tmp_path_factory, worker_id)
    clone = harness.copied(finished, tmp_path / "project")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for name in (
        "metrics/mnist-5k/models/.vae.{}.tmp.json",
        "metrics/mnist-5k/curves/.vae.{}.tmp.csv",
        ".dvc.{}.tmp.lock",
    ):
        (clone.folder / name.format(dead.pid)).write_text("half of i")
    for name in ("data/scores/.vae.{}.abc.tmp", "data/samples/.vae.{}.abc.tmp"):
        (clone.folder / name.format(dead.pid)).mkdir()
        (clone.folder / name.format(dead.pid) / "half.npy").write_bytes(b"half of i")
    count("leftovers", 5)
    assert clone.stale() <= {"inputs", "report", "track"}
    clone.run("dvc", "repro", "inputs")
    assert not (clone.folder / f".dvc.{dead.pid}.tmp.lock").exists()
    clone.run("pipeline", "repro", "--jobs", "1")
    assert (
        harness.differences(clone.folder, finished, ("dvc.lock", "metrics/mnist-5k/comparison.csv"))
        == []
    )
    assert harness.git(clone.folder, "status", "--porcelain") == ""
