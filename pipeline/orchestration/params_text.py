"""Edits of params.yaml that leave everything else as it stands: comments, columns, order."""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline.core import files, paths
from pipeline.core.errors import PipelineError

HEAD = re.compile(r"(?P<indent>[ ]*)(?P<key>[A-Za-z_]\w*):(?=\s|$)")
"""A key of a block."""
LINE = re.compile(
    r"""(?P<before>[ ]+[A-Za-z_]\w*:[ ]+)
        (?P<value>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s\#"'][^\#]*?)
        (?P<space>[ \t]*)(?P<comment>\#.*)?$""",
    re.VERBOSE,
)
"""A key of a section, or of a block in it, with a value on the same line."""
Key = tuple[str, ...]


def change(values: Mapping[str, Any], check: Callable[[Path], None], *, write: bool = True) -> bool:
    """Have params.yaml say ``values`` and show what that changes, as a diff.

    The file changes as a whole, or, where anything is wrong, not at all.

    Args:
        values: by key, as of `edited`.
        check: refuses a file with mistakes.
        write: False only shows it.

    Returns:
        whether there is anything to change.

    Raises:
        PipelineError: if the changed file would be refused.
    """
    before = files.read_text(paths.PARAMS)
    after = edited(before, values)
    if after == before:
        print(f"{paths.PARAMS} says so already.\n", flush=True)
        return False
    candidate = paths.WORK / paths.PARAMS.name
    files.write_text(candidate, after)
    try:
        check(candidate)
    except PipelineError as error:
        text = str(error).replace(str(candidate), str(paths.PARAMS))
        raise PipelineError(f"{text}\n{paths.PARAMS}: left as it was") from None
    finally:
        files.remove(candidate)
    if write:
        files.write_text(paths.PARAMS, after)
    print(*difference(before, after), "", sep="\n", flush=True)
    return True


def difference(before: str, after: str) -> list[str]:
    """The lines of a diff, each group below the block that it is in, such as ``@ models.vae``."""
    old, new = before.splitlines(), after.splitlines()
    within = {place: key[:-1] for place, _, key in _keys(new)}
    shown, last = [f"--- {paths.PARAMS}", f"+++ {paths.PARAMS}"], None
    # Without autojunk: it takes lines that come often, such as `scoring: {}`, for no match.
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    for kind, first, end, place, stop in matcher.get_opcodes():
        if kind == "equal":
            continue
        block = ".".join(within.get(place, ()))
        if block != last:
            shown.append(f"@ {block}")
        last = block
        shown += [f"-{line}" for line in old[first:end]] + [f"+{line}" for line in new[place:stop]]
    return shown


def edited(text: str, values: Mapping[str, Any]) -> str:
    """The text with values replaced, where they are others; keys are ``section.key`` or deeper.

    Lines are edited where that gives these values and changes no others; otherwise, as for
    blocks in braces, the file is written anew with its comments.
    """
    yaml = YAML(typ="safe")
    present = yaml.load(text)
    changes = {
        tuple(key.split(".")): value
        for key, value in values.items()
        if not _has(present, key.split("."), value)
    }
    if not changes:
        return text
    wanted = _with(present, changes)
    made = _by_lines(text, changes)
    if yaml.load(made) == wanted:
        return made
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    stream = StringIO()
    yaml.dump(_with(yaml.load(text), changes), stream)
    return stream.getvalue()


def with_values(raw: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """What params.yaml holds once it is `edited`, of what it holds now."""
    return _with(deepcopy(dict(raw)), {tuple(key.split(".")): values[key] for key in values})


def _with(content: Any, changes: Mapping[Key, Any]) -> Any:
    for (*blocks, name), value in changes.items():
        block = content
        for each in blocks:
            block = block.setdefault(each, {})
        block[name] = value
    return content


def _has(content: Any, key: Sequence[str], value: Any) -> bool:
    for each in key:
        if not isinstance(content, Mapping) or each not in content:
            return False
        content = content[each]
    return content == value and isinstance(content, bool) == isinstance(value, bool)


def _keys(lines: Sequence[str]) -> Iterator[tuple[int, int, Key]]:
    """Place, indent and key of each line that has one."""
    above: list[tuple[int, str]] = []
    for place, line in enumerate(lines):
        found = HEAD.match(line)
        if found is None:
            continue
        indent = len(found["indent"])
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, found["key"]))
        yield place, indent, tuple(name for _, name in above)


def _by_lines(text: str, changes: Mapping[Key, Any]) -> str:
    lines, left = text.split("\n"), dict(changes)
    last: dict[Key, tuple[int, int]] = {}  # of each block, its last line with a value; its indent
    for place, indent, key in list(_keys(lines)):
        found = LINE.match(lines[place])
        if found is None:
            continue
        last[key[:-1]] = place, indent
        if key in left:
            value = scalar(left.pop(key))
            # The comment keeps its column where it can.
            space = len(found["value"]) + len(found["space"]) - len(value)
            comment = " " * max(space, 1) + found["comment"] if found["comment"] else ""
            lines[place] = found["before"] + value + comment
    added = [(*last[key[:-1]], key[-1], value) for key, value in left.items() if key[:-1] in last]
    added.reverse()  # two of one block keep their order
    for place, indent, name, value in sorted(added, key=lambda each: -each[0]):
        lines.insert(place + 1, f"{' ' * indent}{name}: {scalar(value)}")
    return "\n".join(lines)


def scalar(value: Any) -> str:
    """A text or a number as YAML has it on one line."""
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    plain = re.fullmatch(r"[A-Za-z0-9_/.~][\w/.~+ -]*(?<! )", value, re.ASCII)
    if plain and YAML(typ="safe").load(value) == value:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
