"""Which project files a file imports, transitively, read from its syntax tree."""

import ast
import functools
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGES = ("pipeline", "stages")


def closure(root: Path, start: str, family: str | None = None) -> set[str]:
    """Project files, relative to ``root``, that ``start`` (such as stages/train.py) uses.

    What is imported by name at run time is added here: the given family where a stage has one,
    and the modules of the data sources where `sources.load` is called. A package's
    ``__init__.py`` that only says what it is for can change nothing, and is left out; so is what
    only type checkers import.
    """
    waiting = [start]
    if family is not None:
        waiting.append(f"pipeline/families/{family}.py")
    seen: set[str] = set()
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or not (root / name).exists():
            continue
        seen.add(name)
        empty, files, loads_sources = _looked_at((root / name).read_text())
        if not (Path(name).name == "__init__.py" and empty):
            found.add(name)
        waiting += [f"{parent}/__init__.py" for parent in Path(name).parents if str(parent) != "."]
        waiting += files
        if loads_sources:
            waiting += [f"pipeline/datasets/{module}.py" for module in _source_modules(root)]
    return found


@functools.cache
def _looked_at(text: str) -> tuple[bool, list[str], bool]:
    """Of a file's text: whether it does nothing, what it may import, whether it loads sources."""
    tree = ast.parse(text)
    return _is_empty(tree), _files(imported(tree)), "sources.load(" in text


def _is_empty(tree: ast.Module) -> bool:
    return all(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body
    )


def imported(tree: ast.AST) -> list[str]:
    """Dotted names of what may be imported at run time, inside functions too."""
    names = []
    for node in _run(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.append(node.module)
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that are for type checkers alone."""
    yield tree
    for_types = isinstance(tree, ast.If) and _is_type_checking(tree.test)
    for child in tree.orelse if for_types else ast.iter_child_nodes(tree):
        yield from _run(child)


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _files(names: Iterable[str]) -> list[str]:
    """Where modules and packages of the project may be that have these names."""
    project = [name.replace(".", "/") for name in names if name.split(".")[0] in PACKAGES]
    return [f"{path}.py" for path in project] + [f"{path}/__init__.py" for path in project]


def _source_modules(root: Path) -> set[str]:
    tree = ast.parse((root / "pipeline/datasets/sources.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "MODULES":
            return set(ast.literal_eval(node.value).values())
    raise AssertionError("pipeline/datasets/sources.py has no MODULES")
