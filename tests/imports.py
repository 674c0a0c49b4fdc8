"""Which project files a file imports, transitively, read from its syntax tree."""

import ast
from pathlib import Path

PACKAGES = ("pipeline", "stages")


def closure(root: Path, start: str, family: str | None = None) -> set[str]:
    """Project files, relative to ``root``, that ``start`` (such as stages/train.py) uses.

    What is imported by name at run time is added here: the given family where a stage has one,
    and the modules of the data sources where `datasets.source` is called.
    """
    waiting = [start]
    if family is not None:
        waiting.append(f"pipeline/families/{family}.py")
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in found or not (root / name).exists():
            continue
        found.add(name)
        waiting += [f"{parent}/__init__.py" for parent in Path(name).parents if str(parent) != "."]
        text = (root / name).read_text()
        waiting += _imports(ast.parse(text))
        if "datasets.source(" in text:
            waiting += [f"pipeline/datasets/{module}.py" for module in _source_modules(root)]
    return found


def _imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    project = [name.replace(".", "/") for name in names if name.split(".")[0] in PACKAGES]
    return [f"{path}.py" for path in project] + [f"{path}/__init__.py" for path in project]


def _source_modules(root: Path) -> set[str]:
    tree = ast.parse((root / "pipeline/datasets/__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "MODULES":
            return set(ast.literal_eval(node.value).values())
    raise AssertionError("pipeline/datasets/__init__.py has no MODULES")
