"""Known vulnerabilities of the pinned packages; `make lint` asks, and passes without a network.

    python -m pipeline.orchestration.audit [options of pip-audit]

pip-audit ends alike for a vulnerability and for a service that it cannot reach, so what it writes
is read. What is accepted stands in pyproject.toml under ``tool.audit.accepted``, with its reason.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
PYPROJECT = Path("pyproject.toml")
SECONDS = 60
"""For all packages together; one question waits for at most 5."""
UNREACHABLE = re.compile(r"requests\.exceptions\.|ServiceError|network may be blocking")
"""In what pip-audit says where its service does not answer, or answers with something else."""


def main(options: Sequence[str] = ()) -> int:
    """Ask, print what was found, and return 1 if something known was not accepted, or 0.

    That the service does not answer is told in one line and is no failure.
    """
    with PYPROJECT.open("rb") as stream:
        accepted = tomllib.load(stream)["tool"]["audit"]["accepted"]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(CONSTRAINTS)]
    # Every package is pinned: nothing needs to be resolved, and pip is not asked.
    command += ["--no-deps", "--disable-pip", "--format", "json", "--desc", "off"]
    command += ["--progress-spinner", "off", "--timeout", "5", *options]
    for known in accepted:
        command += ["--ignore-vuln", known]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return _not_done(f"no answer to all questions within {SECONDS} seconds")
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        said = (done.stderr.strip() or "nothing").splitlines()[-1]
        if UNREACHABLE.search(done.stderr):
            return _not_done(f"the service of vulnerabilities does not answer ({said[:100]})")
        print(f"error: pip-audit failed: {said}", file=sys.stderr)
        return 1
    return _tell(packages)


def _tell(packages: list[dict]) -> int:
    unknown = [each["name"] for each in packages if "skip_reason" in each]
    if len(unknown) == len(packages):
        return _not_done(f"the service of vulnerabilities knows none of {len(packages)} packages")
    found = [(each, known) for each in packages for known in each.get("vulns", [])]
    for each, known in found:
        names = ", ".join([known["id"], *known["aliases"]])
        fixed = " or ".join(known["fix_versions"]) or "no version yet"
        print(
            f"error: {CONSTRAINTS}: {each['name']} {each['version']}: {names}, fixed in {fixed}; "
            f"pin that, or accept {known['id']} in {PYPROJECT}, tool.audit.accepted, with a reason",
            file=sys.stderr,
        )
    if not found:
        rest = f", which does not know {', '.join(unknown)}" if unknown else ""
        asked = len(packages) - len(unknown)
        print(f"pip-audit: the service of vulnerabilities has none of {asked} packages{rest}")
    return 1 if found else 0


def _not_done(why: str) -> int:
    print(f"pip-audit: not done: {why}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
