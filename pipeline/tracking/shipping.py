"""The code of a registered model, as a package under a name of its own.

Models of several versions of the code, and programs with a module called like this package, live in
one process: the name of what is shipped holds a hash of its content, so that the same code has the
same name and other code has another. MLflow takes no care of that: what it loads first, all get.
"""

import re
from pathlib import Path

from pipeline.core import files, paths

PREFIX = "generative_families_"
IMPORT = re.compile(r"^(\s*)(from|import) pipeline(?=[.\s])", re.MULTILINE)
SCRIPT = '''"""What MLflow runs to load the model: a sampler of the package that lies beside it."""

import sys
from pathlib import Path

from mlflow.models import set_model

NAME = "{name}"

# The same code may have been loaded from a folder that is gone, where the rest of it is missing.
for each, module in list(sys.modules.items()):
    if each.partition(".")[0] == NAME and not Path(module.__file__ or "").exists():
        del sys.modules[each]

from {name}.tracking.serving import Sampler  # noqa: E402

set_model(Sampler())
'''


def name() -> str:
    """What the package is called where it is shipped: the same for the same code alone."""
    return PREFIX + files.sha256(paths.CODE, ".py")[:12]


def ship(folder: Path) -> tuple[Path, Path]:
    """Write the package, with its imports of itself renamed, and the script that MLflow runs.

    Args:
        folder: an empty one.

    Returns:
        The package and the script.
    """
    package = folder / name()
    for file in sorted(paths.CODE.rglob("*.py")):
        target = package / file.relative_to(paths.CODE)
        target.parent.mkdir(parents=True, exist_ok=True)
        source = file.read_text(encoding="utf-8")
        target.write_text(IMPORT.sub(rf"\1\2 {package.name}", source), encoding="utf-8")
    script = folder / f"{package.name}_sampler.py"
    script.write_text(SCRIPT.format(name=package.name), encoding="utf-8")
    return package, script
