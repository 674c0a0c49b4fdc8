"""Tensors on disk: safetensors files that say whether they are whole.

safetensors has no checksum: a flipped bit is another weight, and a missing tensor is not missed.
The header of these files holds a SHA-256 over the names, types, shapes and bytes of all tensors and
over what else the header says, and nothing is handed out that does not match it.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import files

if TYPE_CHECKING:
    from torch import Tensor

DIGEST = "sha256"
HEADER = 8
"""Bytes that say how long the header is, which is JSON."""


class Damaged(files.Unreadable):
    """A file of tensors that is not what was saved."""


def save(path: Path, tensors: "Mapping[str, Tensor]", **text: str) -> None:
    """Write tensors by name, and text into the header.

    Raises:
        OSError: if that fails; see `files.writing`.
    """
    from safetensors import torch as safetensors

    stored = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
    # Written by Python: the library writes beside it first, under a name that nobody sweeps away
    # if the process is killed there.
    path.write_bytes(safetensors.save(stored, {**text, DIGEST: digest(stored, text)}))


def load(path: Path, remedy: str) -> "tuple[dict[str, Tensor], dict[str, str]]":
    """What `save` wrote: the tensors, and the text of the header.

    Args:
        path: the file.
        remedy: what to do if it is damaged; it ends each message.

    Raises:
        FileNotFoundError: if there is none.
        Damaged: if it is not what was saved, for whatever reason.
    """
    from safetensors import torch as safetensors

    try:
        # Read by Python: the library, reading, takes a Ctrl-C for a mistake in the file.
        content = path.read_bytes()
        tensors = safetensors.load(content)
        end = HEADER + int.from_bytes(content[:HEADER], "little")
        text = json.loads(content[HEADER:end]).get("__metadata__", {})
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged header makes the library raise
        raise Damaged(f"{path}: damaged ({files.reason(error)}); {remedy}") from None
    expected = text.pop(DIGEST, None)
    if expected is None:
        raise Damaged(f"{path}: damaged (it holds no digest); {remedy}")
    if digest(tensors, text) != expected:
        raise Damaged(f"{path}: damaged (its content is not what was saved); {remedy}")
    return tensors, text


def digest(tensors: "Mapping[str, Tensor]", text: Mapping[str, str]) -> str:
    """Hex SHA-256 over tensors on the CPU, in the order of their names, and text."""
    import torch

    found = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name in sorted(tensors):
        each = tensors[name]
        found.update(json.dumps([name, str(each.dtype), list(each.shape)]).encode())
        found.update(each.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
