"""``python -m benchmarks <name>``: measure, and write benchmarks/results/<name>.json and .png."""

import argparse
import sys

from benchmarks import samplers, scale
from pipeline.core.errors import PipelineError

PROGRAMS = {"samplers": samplers, "scale": scale}


def main() -> int:
    """Run one program; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    each = parser.add_subparsers(dest="name", required=True, metavar="name")
    for name, program in PROGRAMS.items():
        head = program.__doc__.splitlines()[0]
        program.options(each.add_parser(name, help=head, description=program.__doc__))
    given = parser.parse_args()
    try:
        PROGRAMS[given.name].run(given)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
