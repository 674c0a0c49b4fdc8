"""One stage's entry of DVC's run-cache, carried from where the stage ran to where it is wanted.

DVC pushes no outputs that git holds, such as metrics and curves, so an entry takes them along. The
others come from the remote. Then ``dvc repro --pull`` has all that it restores a stage from
(`dvc_process.RESTORE`).

``python -m pipeline.orchestration.run_cache train@vae`` prints the entry of a stage as JSON.
"""

import base64
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pipeline.core import files
from pipeline.core.errors import PipelineError


def show(stage: str) -> dict[str, Any]:
    """The entry of a stage that is up to date here.

    Returns:
        ``path`` below DVC's cache, the ``text`` there, and ``objects``: each output that DVC does
        not push, in base64, by its MD5.

    Raises:
        PipelineError: if DVC remembers no such run.
    """
    from dvc.repo import Repo
    from dvc.stage.cache import _get_cache_hash, _get_stage_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    with Repo() as repo:
        (found,) = repo.stage.collect(stage)
        cache = Path(repo.cache.legacy.path)
        key, value = _get_stage_hash(found), _get_cache_hash(to_single_stage_lockfile(found))
        path = Path("runs", key[:2], key, value)
        unpushed = [out for out in found.outs if not out.use_cache]
        if not (cache / path).exists() or any(out.is_dir_checksum for out in unpushed):
            raise PipelineError(f"{stage}: DVC does not remember what it made")
        contents = {out.hash_info.value: Path(out.fs_path).read_bytes() for out in unpushed}
        return {
            "path": path.as_posix(),
            "text": (cache / path).read_text(encoding="utf-8"),
            "objects": {md5: base64.b64encode(each).decode() for md5, each in contents.items()},
        }


def take(entry: dict[str, Any], cache: Path) -> None:
    """Put what `show` gave into a cache of DVC's, as the newest of its kind.

    Raises:
        PipelineError: if it is not whole, or cannot be written.
    """
    for md5, text in entry["objects"].items():
        content = base64.b64decode(text)
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            raise PipelineError("what a worker sent of its results is damaged; run it again")
        path = cache / "files" / "md5" / md5[:2] / md5[2:]
        if not path.exists():
            with files.replacing(path) as temporary:
                temporary.write_bytes(content)
                temporary.chmod(0o444)  # as DVC protects what it caches
    files.write_text(cache / entry["path"], entry["text"])  # also if it is there: DVC goes by age


if __name__ == "__main__":
    try:
        print(json.dumps(show(sys.argv[1])))
    except PipelineError as error:
        sys.exit(f"error: {error}")
