"""What docstrings and comments say of other modules is where they say it is."""

import ast
import importlib.util
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(ROOT)
    for folder in ("pipeline", "stages")
    for path in (ROOT / folder).rglob("*.py")
)
FULL = re.compile(r"`(pipeline(?:\.\w+)+)`")
SHORT = re.compile(r"(?<!`)`([A-Za-z]\w*(?:\.\w+)+)`(?!`)")
"""Double backticks are for what is no name of the code, such as keys of params.yaml."""


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def prose(text: str) -> str:
    """Docstrings and comments of a file."""
    found = [
        node.value
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    comments = [each.string for each in tokens if each.type == tokenize.COMMENT]
    return "\n".join([*found, *comments])


def defined(body: list[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
    """Names that a module or a class defines, and by what."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from ((each.id, node) for each in ast.walk(target) if _is_name(each))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id, node
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from defined(node.body)


def _is_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Name)


def members(node: ast.ClassDef) -> set[str]:
    """Attributes and methods of a class, also those that its methods set."""
    found = {name for name, _ in defined(node.body)}
    return found | {
        each.attr
        for each in ast.walk(node)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and isinstance(each.value, ast.Name)
        and each.value.id == "self"
    }


@cache
def known() -> frozenset[str]:
    """Dotted names of all packages and modules, of what they define, and of members of classes."""
    names = set()
    for path in SOURCES:
        module = module_of(path)
        names.add(module)
        for name, node in defined(ast.parse((ROOT / path).read_text()).body):
            names.add(f"{module}.{name}")
            if isinstance(node, ast.ClassDef):
                names |= {f"{module}.{name}.{each}" for each in members(node)}
    return frozenset(names)


@cache
def endings() -> frozenset[str]:
    """Every name of `known`, without its first parts too."""
    split = (name.split(".") for name in known())
    return frozenset(".".join(parts[i:]) for parts in split for i in range(len(parts)))


def is_of_others(name: str) -> bool:
    """Whether a name is one of a library's; folders without code, such as tests/gate, are none."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    return spec is not None and spec.origin is not None and not name.startswith("pipeline.")


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_modules_that_are_mentioned_by_their_full_names_exist(path):
    mentioned = set(FULL.findall(prose((ROOT / path).read_text())))
    assert mentioned - known() == set()


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_what_is_mentioned_by_the_end_of_its_name_exists(path):
    mentioned = set(SHORT.findall(prose((ROOT / path).read_text())))
    assert {each for each in mentioned - endings() if not is_of_others(each)} == set()


def test_mentions_are_found_and_names_are_known():
    mentioned = [
        each for path in SOURCES for each in FULL.findall(prose((ROOT / path).read_text()))
    ]
    assert len(mentioned) > 10
    for name in (
        "pipeline.core",
        "pipeline.core.paths",
        "pipeline.core.paths.model_dir",
        "pipeline.core.paths.METRICS",
        "pipeline.core.contract.Family.data",
        "stages.train.main",
    ):
        assert name in known()
    assert "pipeline.gate.OK" not in known() and "pipeline.tracking_runs" not in known()
    assert "paths.model_dir" in endings() and "gate.OK" not in endings()


def test_docstrings_and_comments_are_read_alike():
    text = '"""See `pipeline.a`."""\n# and `pipeline.b`\nx = 1\n"""which is `pipeline.c`"""\n'
    assert FULL.findall(prose(text)) == ["pipeline.a", "pipeline.c", "pipeline.b"]
    assert SHORT.findall("``a.b`` `c.d` `e` `f.g()`") == ["c.d"]


def _used(path: Path) -> set[tuple[str, str]]:
    """(module, attribute) of what a file takes from the project's modules by their names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules, names = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pipeline":
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.arg):
            names.add(node.arg)
    return {
        (modules[node.value.id], node.attr)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and node.value.id not in names
    }


@pytest.mark.parametrize(
    "path",
    [str(p.relative_to(ROOT)) for d in ("pipeline", "stages") for p in (ROOT / d).rglob("*.py")],
)
def test_what_is_taken_from_another_module_is_there(path):
    """Also where no test goes, such as a default that tests do not ask for."""
    for name, attribute in _used(ROOT / path):
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue  # a class or a function, whose attributes are not looked at
        assert hasattr(module, attribute), f"{path}: {name} has no {attribute}"
