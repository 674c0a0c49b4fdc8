"""Edits of params.yaml that leave everything else as it stands: comments, columns, order."""

import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from ruamel.yaml import YAML

LINE = re.compile(
    r"""(?P<before>\s+(?P<key>[A-Za-z_]\w*):[ ]+)
        (?P<value>"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s\#"'][^\#]*?)
        (?P<space>[ \t]*)(?P<comment>\#.*)?$""",
    re.VERBOSE,
)
"""A key of a section with a value on the same line."""


def edited(text: str, values: Mapping[str, Any]) -> str:
    """The text with values replaced, where they are others; keys are ``section.key``.

    Lines are edited where that gives these values and changes no others; otherwise, as for
    sections in braces, the file is written anew with its comments.
    """
    yaml = YAML(typ="safe")
    wanted = yaml.load(text)
    changes = {}
    for key, value in values.items():
        section, name = key.split(".")
        if name not in wanted[section] or not _same(wanted[section][name], value):
            changes[section, name] = wanted[section][name] = value
    if not changes:
        return text
    made = _by_lines(text, changes)
    if yaml.load(made) == wanted:
        return made
    return _anew(text, changes)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _by_lines(text: str, changes: Mapping[tuple[str, str], Any]) -> str:
    lines, left = text.split("\n"), dict(changes)
    section, last = "", {}
    for place, line in enumerate(lines):
        if re.match(r"\w+:", line):
            section = line.partition(":")[0]
        found = LINE.match(line)
        if found is None or not line.startswith("  ") or line.startswith("   "):
            continue
        last[section] = place
        key = section, found["key"]
        if key in left:
            value = scalar(left.pop(key))
            # The comment keeps its column where it can.
            space = len(found["value"]) + len(found["space"]) - len(value)
            comment = " " * max(space, 1) + found["comment"] if found["comment"] else ""
            lines[place] = found["before"] + value + comment
    for (section, name), value in reversed(left.items()):
        if section in last:
            lines.insert(last[section] + 1, f"  {name}: {scalar(value)}")
            last = {each: place + (place > last[section]) for each, place in last.items()}
    return "\n".join(lines)


def _anew(text: str, changes: Mapping[tuple[str, str], Any]) -> str:
    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 4096
    content = yaml.load(text)
    for (section, name), value in changes.items():
        content[section][name] = value
    stream = StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def scalar(value: Any) -> str:
    """A text or a number as YAML has it on one line."""
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    plain = re.fullmatch(r"[A-Za-z0-9_/.~][\w/.~+ -]*(?<! )", value, re.ASCII)
    if plain and YAML(typ="safe").load(value) == value:
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
