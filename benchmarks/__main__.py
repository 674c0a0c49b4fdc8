"""``python -m benchmarks NAME``: measure, and write benchmarks/results/NAME.json and docs.

The pages are made of all that lies in benchmarks/results/; ``page`` makes them again without
measuring.
"""

import argparse
import sys
from pathlib import Path

from benchmarks import (
    drawing,
    growth,
    optimisers,
    page,
    peers,
    planned,
    results,
    samplers,
    scale,
    small_data,
    trainers,
)
from pipeline.core.errors import PipelineError

PROGRAMS = {
    "peers": peers,
    "optimisers": optimisers,
    "samplers": samplers,
    "trainers": trainers,
    "drawing": drawing,
    "scale": scale,
    "growth": growth,
    "planned": planned,
    "small_data": small_data,
    "page": page,
}


def main() -> int:
    """Run one program; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    each = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, program in PROGRAMS.items():
        head = program.__doc__.splitlines()[0]
        one = each.add_parser(name, help=head, description=program.__doc__)
        one.add_argument(
            "--results",
            type=Path,
            default=results.FOLDER,
            help=f"where to write, if not to {results.FOLDER}",
        )
        program.options(one)
    given = parser.parse_args()
    results.FOLDER, shown = given.results, results.FOLDER
    try:
        PROGRAMS[given.name].run(given)
        if given.results == shown:
            page.write()
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
