"""Where benchmarks keep what they found, and what it was found on."""

import io
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import psutil
import torch
from tabulate import tabulate

from pipeline.core import files, stage

FOLDER = Path("benchmarks/results")


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """What the numbers depend on beside the code."""
    return {
        "device": stage.device_name(device or torch.device("cpu")),
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write(name: str, found: Mapping[str, Any]) -> None:
    """Write ``<name>.json``, with the machine."""
    files.write_json(FOLDER / f"{name}.json", files.rounded({**found, "machine": machine()}))


def read(name: str) -> dict[str, Any]:
    """What `write` wrote.

    Raises:
        FileNotFoundError: if nothing was.
    """
    return files.read_json(FOLDER / f"{name}.json")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the bars of trainings to oneself: what is timed here has no end that they could show."""
    with redirect_stderr(io.StringIO()):
        yield


def line(row: Mapping[str, Any]) -> str:
    """A row in words, for whoever watches."""
    return "  ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in row.items()
    )


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table of the page."""
    return tabulate(rows, titles, tablefmt="github", disable_numparse=True)


@contextmanager
def picture(name: str, panels: int = 1) -> Iterator[list[Any]]:
    """Give matplotlib's axes of so many panels side by side; then write ``<name>.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (8, 5) if panels == 1 else (5 * panels, 5)
    figure, axes = pyplot.subplots(1, panels, figsize=size, layout="constrained", squeeze=False)
    yield list(axes[0])
    path = FOLDER / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    print(path)


def dress(axes: Any, *, x: str, y: str, log: str = "xy") -> None:
    """Titles, grid and legend of a panel; the axes named in ``log`` are logarithmic."""
    from matplotlib.ticker import ScalarFormatter

    for axis in log:
        getattr(axes, f"set_{axis}scale")("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ScalarFormatter())
    axes.set(xlabel=x, ylabel=y)
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def draw(
    name: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    log: str = "xy",
) -> None:
    """Write ``<name>.png``: a curve for each name; the axes named in ``log`` are logarithmic."""
    with picture(name) as (axes,):
        for (title, points), marker in zip(curves.items(), "osD^vP*X" * len(curves), strict=False):
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, label=title)
        dress(axes, x=x, y=y, log=log)
