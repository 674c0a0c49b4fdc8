"""``python -m pipeline <command>``: what is not a stage of the graph."""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from pipeline.core.errors import PipelineError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it succeeded, 1 for a mistake that is told in one line."""
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="validate the whole of params.yaml")
    repro = commands.add_parser("repro", help="bring everything up to date, models side by side")
    repro.add_argument("--jobs", type=_positive, help="models at a time (default: cores or GPUs)")
    repro.add_argument("--models", type=_names, help="only these, separated by commas")
    repro.add_argument("--force", action="store_true", help="run what did not change, too")
    repro.add_argument("--no-compare", action="store_true", help="stop once models are evaluated")
    thorough = commands.add_parser(
        "thorough", help="error bars: more trainings and sample sets of each model, and inversions"
    )
    thorough.add_argument("--jobs", type=_positive, help="models at a time, as of repro")
    ui = commands.add_parser("ui", help="compare the runs in MLflow's pages, on loopback")
    ui.add_argument("--port", type=_port, help="default: 5000 or the next free one")
    others = commands.add_parser(
        "evaluate-images",
        help="judge images of another generator, and compare them with the models",
    )
    others.add_argument("source", type=Path, help="a folder of image files, or an .npy file, uint8")
    others.add_argument("--name", required=True, help="what they are called in the comparison")
    others.add_argument("--labels", type=Path, help="an .npy file: the class of each, if asked for")
    gate = commands.add_parser(
        "gate", help="fail (1) if a metric is worse than its baseline; 2 if nothing compares"
    )
    gate.add_argument(
        "--base",
        metavar="REVISION",
        help="compare with the baseline of a revision of git; this folder's own by default",
    )
    gate.add_argument("--all", action="store_true", help="show the checks that pass, too")
    gate.add_argument(
        "--accept", metavar="REASON", help="take the present values into the baseline, and say why"
    )
    gate.add_argument(
        "--out", type=Path, default=None, help="folder of gate.json and junit.xml (work/gate)"
    )
    baseline = commands.add_parser(
        "baseline", help="train with several seeds and write metrics/baseline.json"
    )
    baseline.add_argument("--seeds", type=_several, default=3, help="how many (default: 3)")
    baseline.add_argument("--jobs", type=_positive, help="models at a time, as of repro")
    register = commands.add_parser(
        "register", help="put a model into MLflow's registry, to draw its images from"
    )
    register.add_argument("model", help="a model of params.yaml")
    register.add_argument(
        "--alias",
        default="champion",
        choices=["champion", "baseline"],
        help="what the version is called (default: champion)",
    )
    commands.add_parser("live", help="follow trainings into MLflow while they run, until Ctrl-C")
    commands.add_parser("readme", help="write the tables of README.md, from metrics/")
    floors = commands.add_parser("floors", help="fail if a committed floor is missed")
    floors.add_argument("file", help="a JSON file: {model: {metric: worst allowed value}}")
    options = parser.parse_args(arguments)
    # What is asked to end, ends its children too, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _run(options) or 0
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        # A gate that could not compare has found no regression, and has passed nothing either.
        return 2 if options.command == "gate" else 1
    except Exception:
        if options.command != "gate":
            raise
        traceback.print_exc()  # Python's own exit code, 1, would read as a regression
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int | None:
    # Imported here, so that help texts and mistakes do not wait for libraries.
    if options.command == "check":
        from pipeline import check

        check.check()
        print("params.yaml is valid")
    elif options.command == "repro":
        from pipeline import launch

        launch.reproduce(
            options.jobs, options.models, force=options.force, compare=not options.no_compare
        )
    elif options.command == "thorough":
        from pipeline import thorough

        thorough.run(options.jobs)
    elif options.command == "ui":
        from pipeline import ui

        ui.serve(options.port)
    elif options.command == "evaluate-images":
        from pipeline import external

        external.evaluate(options.source, options.name, options.labels)
    elif options.command == "gate":
        from pipeline import gate_command

        return gate_command.run(options.base, options.accept, options.out, every=options.all)
    elif options.command == "baseline":
        from pipeline import gate_command

        gate_command.renew(options.seeds, options.jobs)
    elif options.command == "live":
        from pipeline import live

        live.follow()
    elif options.command == "register":
        from pipeline import registry

        registry.register(options.model, options.alias)
    elif options.command == "readme":
        from pipeline import readme

        readme.write()
    elif options.command == "floors":
        from pipeline import floors

        floors.check(options.file)
    return None


def _positive(text: str) -> int:
    return _at_least(1, text)


def _port(text: str) -> int:
    port = _at_least(1024, text)
    if port > 65535:
        raise argparse.ArgumentTypeError(f"must be at most 65535, not {text!r}")
    return port


def _several(text: str) -> int:
    # One training says nothing of what another one would give.
    return _at_least(2, text)


def _at_least(least: int, text: str) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, not {text!r}")
    return int(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
