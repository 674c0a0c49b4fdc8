"""A copy of the project in which tests may change and break things."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forks
from builders import TINY, TINY_TRAINING
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
LINE = re.compile(r"^(Running stage|Stage) '([^']+)'(.*)$", re.MULTILINE)


class Clone:
    """The project's files in a folder of their own, with the given models of params.yaml.

    ``small`` makes them train for a second instead of minutes.
    """

    def __init__(self, folder: Path, models: tuple[str, ...], *, small: bool = True) -> None:
        self.folder = folder
        listed = self._git("ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
        for name in listed.stdout.splitlines():
            made = name.startswith(("metrics/", "dvc.lock")) and not name.endswith("README.md")
            if (ROOT / name).is_file() and not made and not name.startswith("tests/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        self.params["models"] = {name: self.params["models"][name] for name in models}
        if small:
            self._shrink()
        self.write_params()
        self._git("init", "--quiet")

    def _shrink(self) -> None:
        self.params["judge"] |= {
            "seeds": [1, 2],
            "classifier": {"steps": 6, "learning_rate": 0.01},
            "label_free": {"steps": 2, "learning_rate": 0.003},
        }
        self.params["sample"] |= {"n": 20, "batch": 10}
        self.params["evaluate"] |= {"batch": 50}
        for entry in self.params["models"].values():
            family = entry["family"]
            entry["training"] |= {"images": 64, "batch": 16, "precision": "fp32"}
            entry["training"] |= TINY_TRAINING.get(family, {})
            entry["network"] |= TINY.get(family, {})
            few = {"steps": 3}
            sampling = {"ddpm": few, "flow_matching": few, "vdm": few}
            entry["sampling"] |= sampling.get(family, {})
            entry["scoring"] |= {
                "ddpm": {"times": 2},
                "flow_matching": {"steps": 5},
                "vae": {"posterior_samples": 2},
                "vdm": {"times": 2},
            }.get(family, {})

    def write_params(self) -> None:
        """Write ``self.params`` to params.yaml."""
        yaml = YAML(typ="safe")
        yaml.default_flow_style = False
        with (self.folder / "params.yaml").open("w") as stream:
            yaml.dump(self.params, stream)

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess:
        """Run ``python -m command`` in the folder."""
        binaries = str(Path(sys.executable).parent)
        environment = {
            **os.environ,
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "PYTHONPATH": str(self.folder),
        }
        done = forks.run(command, cwd=self.folder, env=environment)
        if check:
            assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done

    def take_over(self, root: Path) -> None:
        """Have what a finished run in ``root`` has in its cache, where there is one."""
        if (root / ".dvc/cache").is_dir() and (root / "dvc.lock").exists():
            shutil.copy(root / "dvc.lock", self.folder / "dvc.lock")
            config = f"[cache]\ndir = {root / '.dvc/cache'}\n"
            (self.folder / ".dvc/config.local").write_text(config)

    def commit(self) -> None:
        """Commit what git tracks of it."""
        self._git("add", "--all")
        who = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
        self._git(*who, "commit", "--quiet", "--message", "as it is")

    def stale(self) -> set[str]:
        """Stages that `dvc repro` would run now."""
        shown = self.run("dvc", "repro", "--dry").stdout
        return {name for _, name, rest in LINE.findall(shown) if "didn't change" not in rest}

    def lock(self) -> dict:
        """dvc.lock as parsed YAML."""
        return YAML(typ="safe").load((self.folder / "dvc.lock").read_text())["stages"]

    def text(self, name: str) -> str:
        """The text of a file."""
        return (self.folder / name).read_text()

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file."""
        text = self.text(name)
        assert old in text, f"{name} holds no {old!r}"
        (self.folder / name).write_text(text.replace(old, new, 1))

    def _git(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["git", *arguments], cwd=cwd or self.folder, capture_output=True, text=True, check=True
        )
