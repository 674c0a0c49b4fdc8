"""``python -m pipeline <command>``: what is not a stage of the graph.

Each command is declared once, below: its name is that of the function, its help the first line of
the docstring, and its arguments stand above it. Rooms know nothing of each other that they do not
need; where a command takes several of them, they meet here.
"""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError

COMMANDS: dict[str, "Command"] = {}


class Command:
    """A function of parsed options, and how it is called from a shell."""

    def __init__(
        self,
        function: Callable[[argparse.Namespace], int | None],
        arguments: Sequence[tuple[tuple[str, ...], dict[str, Any]]],
        failure: int,
    ) -> None:
        self.function, self.arguments, self.failure = function, arguments, failure
        self.name = function.__name__.replace("_", "-")
        self.help, _, self.more = getdoc(function).partition("\n")


def argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    """What argparse's ``add_argument`` is given."""
    return names, options


def command(
    *arguments: tuple[tuple[str, ...], dict[str, Any]], failure: int = 1
) -> Callable[[Callable], Callable]:
    """Declare a command; ``failure`` is its exit code for a mistake that is told in one line."""

    def declare(function: Callable) -> Callable:
        made = Command(function, arguments, failure)
        COMMANDS[made.name] = made
        return function

    return declare


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Reads whole numbers from ``least`` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}, not {text!r}"
            )
        if most is not None and int(text) > most:
            raise argparse.ArgumentTypeError(f"must be at most {most}, not {text!r}")
        return int(text)

    return read


def minutes(text: str) -> float:
    """Reads a number of minutes."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < 1e6:  # no number is neither
        raise argparse.ArgumentTypeError(f"must be a number of minutes, above 0, not {text!r}")
    return found


def names(text: str) -> list[str]:
    """Names, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


JOBS = argument("--jobs", type=at_least(1), help="models at a time (default: cores or GPUs)")

# Libraries are imported within, so that help texts and mistakes do not wait for them.


@command()
def check(options: argparse.Namespace) -> None:
    """Validate the whole of params.yaml."""
    validate()
    print("params.yaml is valid")


def validate(path: Path | None = None) -> None:
    """Refuse what some stage or command would refuse later."""
    from pipeline.core import paths
    from pipeline.gate import rules
    from pipeline.orchestration.check_params import check

    check(path or paths.PARAMS, sections={"gate": rules.section})


def introduce() -> None:
    """`validate`, and say what is in the person's own folder, if params.yaml names one."""
    from pipeline.orchestration import own_images

    validate()
    own_images.introduce()


@command(argument("folder", help="a folder of images, flat or in folders, of any size"))
def inspect(options: argparse.Namespace) -> None:
    """Say what is in a folder of images, and what a run would make of it."""
    from pipeline.core import params
    from pipeline.orchestration import own_images

    print(own_images.told(own_images.inspect(options.folder, params.read())))


@command(
    JOBS,
    argument("--images", metavar="FOLDER", help="a folder of yours, for which to set params.yaml"),
    argument("--models", type=names, help="only these, separated by commas"),
    argument("--force", action="store_true", help="run what did not change, too"),
    argument("--no-compare", action="store_true", help="stop once models are evaluated"),
    argument(
        "--scheduler",
        metavar="ADDRESS",
        help="run models and judges on a Dask cluster, such as tcp://head:8786",
    ),
)
def repro(options: argparse.Namespace) -> None:
    """Bring everything up to date, models side by side."""
    from pipeline.orchestration import own_images, repro

    if options.images:
        with repro.alone():
            own_images.adopt(options.images, validate)

    repro.reproduce(
        options.jobs,
        options.models,
        force=options.force,
        compare=not options.no_compare,
        check=validate if options.images else introduce,
        scheduler=options.scheduler,
    )


@command(
    argument("name", help="28, 32, 64 or 128: the size of the images that it is meant for"),
    argument("--dry-run", action="store_true", help="show what would change, and change nothing"),
)
def preset(options: argparse.Namespace) -> None:
    """Set networks, trainings and samples in params.yaml for images of a size."""
    from pipeline.orchestration import preset, repro

    with repro.alone():
        preset.apply(options.name, validate, write=not options.dry_run)


@command(
    argument("--minutes", type=minutes, required=True, help="from nothing to the report"),
    JOBS,
    argument("--write", action="store_true", help="have params.yaml say so"),
)
def plan(options: argparse.Namespace) -> None:
    """Propose trainings of all models that together end in so many minutes on this machine."""
    from pipeline.orchestration import repro, time_budget

    with repro.alone():
        time_budget.propose(options.minutes, options.jobs, validate, write=options.write)


@command()
def recommend(options: argparse.Namespace) -> None:
    """Say which model to take for these images, and whether a change made it worse."""
    from pipeline.comparison import collect, recommendation, tables
    from pipeline.core import params
    from pipeline.gate import command as gate_command

    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    rows = collect.project_rows(raw, reference)
    print(recommendation.text(rows, reference, home.title, gate_command.told(raw)))
    for line in tables.problems(rows, home):
        print(line, file=sys.stderr)


@command(
    argument(
        "--two-sample",
        action="store_true",
        help="also have a classifier tell each model's samples from real images (minutes)",
    )
)
def judges(options: argparse.Namespace) -> None:
    """Show what each kind of judge sees of known damage to the images of params.yaml."""
    from pipeline.comparison import collect, opinions
    from pipeline.core import params

    raw = params.read()
    home = params.results(raw)
    reference = collect.read_reference(home.reference)
    print(opinions.evidence(reference, home.reference))
    if options.two_sample:
        from pipeline.evaluation import two_sample

        rows = collect.project_rows(raw, reference)
        rows = [row for row in rows if row["status"] == collect.OK]
        print("\n" + opinions.beside(rows, two_sample.of_models(rows, raw)))


@command(JOBS)
def thorough(options: argparse.Namespace) -> None:
    """Make error bars: more trainings and sample sets of each model, and inversions."""
    from pipeline.orchestration import thorough

    validate()
    thorough.run(options.jobs)


@command(argument("--port", type=at_least(1024, 65535), help="default: 5000 or the next free one"))
def ui(options: argparse.Namespace) -> None:
    """Compare the runs in MLflow's pages, on loopback."""
    from pipeline.tracking import ui

    ui.serve(options.port)


@command(
    argument("source", type=Path, help="a folder of image files, or an .npy file, uint8"),
    argument("--name", required=True, help="what they are called in the comparison"),
    argument(
        "--labels",
        type=Path,
        help="the class of each: a .csv file (file name, class) or an .npy file of numbers",
    ),
)
def evaluate_images(options: argparse.Namespace) -> None:
    """Judge images of another generator, and compare them with the models."""
    from pipeline.comparison import collect, tables
    from pipeline.core import params
    from pipeline.evaluation import external
    from pipeline.orchestration import repro

    external.check(options.source, options.name, options.labels)
    repro.make_judges()
    external.evaluate(options.source, options.name, options.labels)
    raw = params.read()
    home = params.results(raw)
    written = home.external_metrics(options.name)
    print(f"{written}: written; `make repro` takes it into the comparison")
    print(tables.summary(collect.project_rows(raw, collect.read_reference(home.reference))))


@command(
    argument(
        "--base",
        metavar="REVISION",
        help="compare with the baseline of a revision of git; this folder's own by default",
    ),
    argument("--all", action="store_true", help="show the checks that pass, too"),
    argument(
        "--accept", metavar="REASON", help="take the present values into the baseline, and say why"
    ),
    argument("--out", type=Path, help="folder of gate.json and junit.xml (work/gate)"),
    # A gate that could not compare has found no regression, and has passed nothing either.
    failure=2,
)
def gate(options: argparse.Namespace) -> int:
    """Fail (1) if a metric is worse than its baseline; 2 if nothing compares."""
    from pipeline.gate import command as gate_command

    return gate_command.run(options.base, options.accept, options.out, every=options.all)


@command(
    # One training says nothing of what another one would give.
    argument("--seeds", type=at_least(2), default=3, help="how many (default: 3)"),
    JOBS,
)
def baseline(options: argparse.Namespace) -> None:
    """Train with several seeds and write the baseline of the gate."""
    from pipeline.gate import command as gate_command
    from pipeline.orchestration import replicas

    validate()
    gate_command.renew(options.seeds, lambda: replicas.trainings(options.seeds, options.jobs))


@command(
    argument("models", type=names, metavar="MODEL", help="names, separated by commas, or all"),
    JOBS,
)
def verify(options: argparse.Namespace) -> int:
    """Train models again in a copy, and fail (1) if the bits are not the committed ones."""
    from pipeline.orchestration import verify

    validate()
    return 0 if verify.run(options.models, options.jobs) else 1


@command(
    argument("model", help="a model of params.yaml"),
    argument(
        "--alias",
        default="champion",
        choices=["champion", "baseline"],
        help="what the version is called (default: champion)",
    ),
)
def register(options: argparse.Namespace) -> None:
    """Put a model into MLflow's registry, to draw its images from."""
    from pipeline.tracking import registry

    registry.register(options.model, options.alias)


@command()
def live(options: argparse.Namespace) -> None:
    """Follow trainings into MLflow while they run, until Ctrl-C."""
    from pipeline.tracking import live

    validate()
    live.follow()


@command(argument("--switch", metavar="TITLE", help="have params.yaml be the one of this data set"))
def datasets(options: argparse.Namespace) -> None:
    """List the data sets that have results here, and go from one to another."""
    from tabulate import tabulate

    from pipeline.comparison import data_sets
    from pipeline.core import params

    if options.switch is not None:
        before = data_sets.switch(options.switch)
        kept = "" if before == options.switch else f"; that of {before} is kept beside its results"
        print(f"params.yaml is that of {options.switch}{kept}; `make repro` restores its data")
    present = params.results(params.read()).title
    found = [data_sets.facts(home) for home in data_sets.homes()]
    heads = ("", "title", "images", "models", "best samples", "by", "written here")
    lines = []
    for each in found:
        mark = "*" if each["title"] == present else ""
        facts = [each[key] for key in ("title", "dataset", "models", "best", "told", "written")]
        lines.append([mark, *("-" if fact is None else fact for fact in facts)])
    print(tabulate(lines, heads, tablefmt="plain", disable_numparse=True))
    if all(each["title"] != present for each in found):
        print(f"params.yaml is of {present}, which has no results here; `make repro` makes them")


@command()
def docs(options: argparse.Namespace) -> None:
    """Write the tables of README.md and docs/, and a page for each other data set."""
    from pipeline.report import documents

    documents.write()


@command(argument("file", help="a JSON file: {model: {at_most | at_least: {metric: limit}}}"))
def floors(options: argparse.Namespace) -> None:
    """Fail if a committed floor is missed."""
    from pipeline.gate import floors

    floors.check(options.file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it succeeded, its ``failure`` for a mistake that is told in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline", description=__doc__.partition("\n")[0]
    )
    known = parser.add_subparsers(dest="command", required=True)
    for each in COMMANDS.values():
        sub = known.add_parser(each.name, help=each.help, description=each.help)
        for flags, options in each.arguments:
            sub.add_argument(*flags, **options)
    options = parser.parse_args(arguments)
    chosen = COMMANDS[options.command]
    # What is asked to end, ends its children too, as with Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:
        signal.signal(signal.SIGHUP, signal.default_int_handler)  # a closed terminal, but for nohup
    try:
        return chosen.function(options) or 0
    except PipelineError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return chosen.failure
    except BrokenPipeError:
        # Whoever read has seen enough; what is left must not be told at the end either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception:
        if chosen.failure == 1:
            raise
        traceback.print_exc()  # Python's own exit code, 1, would read as this command's answer
        return chosen.failure
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
