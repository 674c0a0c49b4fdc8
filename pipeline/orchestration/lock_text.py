"""dvc.lock as text, a stage at a time: what did not change is neither parsed nor written again.

DVC reads the whole of dvc.lock for each stage and writes it after each, which grows with the number
of models and is done once for each of them. As DVC writes it, the file is a head and a block of
lines for each stage. A block that means a stage by itself means it in the file, too, so that each
is parsed once; and the writer, whose line breaks depend on nothing outside of a block, gives
the text of the file as that of its blocks. Whatever has another form is left to the parser and the
writer of the whole.

A stage that runs as a copy of `dvc_process` drops what that imported of the project: this imports
nothing of it.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML, YAMLError

HEAD = "schema: '2.0'\nstages:\n"
OUTER = "stages:\n"
START = re.compile(r"^(?=  \S)", re.MULTILINE)
"""Where the block of a stage begins."""
OTHER = re.compile(r"^\S|[\r\x85\u2028\u2029]", re.MULTILINE)
"""What no block holds: lines of the outermost level, and what only YAML takes for a line's end."""
ANCHOR = "&id"
"""Names of values that stand in two places are counted through the whole file."""


@dataclass(frozen=True)
class Block:
    """What dvc.lock says of one stage; ``value`` is nobody's to change."""

    text: str
    name: str
    value: Any


class LockText:
    """Reads and writes dvc.lock, and remembers the blocks of the last time."""

    def __init__(self) -> None:
        self._read: dict[str, Block] = {}  # by text
        self._written: dict[str, tuple[str, str]] = {}  # by name: the value in a word, and its text

    def blocks(self, text: str) -> list[Block] | None:
        """The stages of a dvc.lock, in their order; None if it is not made of blocks."""
        body = text.removeprefix(HEAD)
        if body == text or OTHER.search(body):
            return None
        first, *pieces = START.split(body)
        if first or not pieces:
            return None
        found: dict[str, Block] = {}
        try:
            for piece in pieces:
                found[piece] = self._read.get(piece) or _block(piece)
        except (YAMLError, ValueError):
            return None
        if len({block.name for block in found.values()}) < len(pieces):
            return None
        self._read = found
        return list(found.values())

    def load(self, text: str) -> Any:
        """What the text means: the same as a parser says, and the caller's own.

        Raises:
            YAMLError: if it is damaged.
        """
        blocks = self.blocks(text)
        return YAML(typ="safe").load(text) or {} if blocks is None else content(blocks)

    def dump(self, data: Any) -> str:
        """The text that `dumped` gives."""
        stages = data.get("stages") if isinstance(data, dict) else None
        if not isinstance(stages, dict) or list(data) != ["schema", "stages"]:
            return dumped(data)
        texts: dict[str, tuple[str, str]] = {}
        for name, value in stages.items():
            word = repr(value)  # equal values may differ in their order, or as 1 and 1.0 do
            known = self._written.get(name)
            if known is None or known[0] != word:
                known = word, dumped({"stages": {name: value}}).removeprefix(OUTER)
            texts[name] = known
        text = "".join([HEAD, *(each for _, each in texts.values())])
        if not texts or data["schema"] != "2.0" or ANCHOR in text:
            return dumped(data)
        self._written = texts
        return text


def content(blocks: Iterable[Block]) -> dict[str, Any]:
    """What a dvc.lock of these blocks means; whoever asks may change it."""
    return {"schema": "2.0", "stages": {block.name: plain(block.value) for block in blocks}}


def dumped(data: Any) -> str:
    """Values as DVC writes them, but by the fast writer."""
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False
    stream = io.StringIO()
    yaml.dump(plain(data), stream)
    return stream.getvalue()


def plain(value: Any) -> Any:
    """A copy of what DVC hands over, such as ordered dictionaries, in types each writer knows."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _block(text: str) -> Block:
    found = YAML(typ="safe").load(text)
    if not isinstance(found, dict):
        raise ValueError("no stage")
    [(name, value)] = found.items()
    return Block(text, name, value)
