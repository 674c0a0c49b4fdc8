"""What the page and its picture show of `benchmarks.peers`."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from benchmarks import contenders, results

WIDTH = 100
"""Of the page's lines."""
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Reached:
    """When a curve came down to a value: at, or not after, or only after so many seconds."""

    seconds: float
    how: Literal["at", "by", "after"]

    def times(self, seconds: float) -> str:
        """How many times as fast that is as ``seconds``, in words."""
        sign = {"at": "", "by": "≥ ", "after": "< "}[self.how]
        return f"{sign}{seconds / self.seconds:.1f}"


def time_to(wanted: float, points: Sequence[tuple[float, float]]) -> Reached:
    """When a curve first comes down to ``wanted``.

    Between two points log(y) is linear in log(x), as quality is about a power of time.

    Args:
        wanted: a value, above 0.
        points: of the curve, by x; all above 0.
    """
    if points[0][1] <= wanted:
        return Reached(points[0][0], "by")
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= wanted:
            share = math.log(y0 / wanted) / math.log(y0 / y1)
            return Reached(x0 * (x1 / x0) ** share, "at")
    return Reached(points[-1][0], "after")


def part(found: Mapping[str, Any]) -> str:
    """The part of docs/benchmarks.md."""
    rows = found["rows"]
    seconds = sorted({row["seconds"] for row in rows})
    seeds = len({row["seed"] for row in rows})
    real = found["real"]
    floor = f"{real['fid']:.2f}, and {real['second_fid']:.2f} by the other judges"
    titles = ["", "parameters", "images/s"]
    titles += [f"FID after {each:g} s" for each in seconds]
    titles += ["second FID at the end", "ms per sample", "evaluations"]
    table = [_row(contender, _of(rows, contender.name), seconds) for contender in _shown(rows)]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    settings = "\n".join(
        textwrap.fill(f"- {each.title}: {each.settings};", WIDTH, subsequent_indent="  ")
        for each in _shown(rows)
        if not each.ours
    )
    head = textwrap.fill(
        f"FID after so many seconds of training on {found['dataset']}: the mean over {seeds} "
        "seeds, and their range. Each training has a process of one thread, whose seconds of the "
        "processor are what counts, but for imports, reading and drawing; two of them run side by "
        f"side, of whomever. Everybody draws {found['n_samples']:,} samples, which are judged as "
        "`python -m pipeline evaluate-images` judges any. FIDs of so few are higher than those of "
        f"1,000: as many real training images have {floor}.",
        WIDTH,
    )
    return f"""## Beside what one would otherwise use

```bash
python -m benchmarks peers        # with what `make bench` installs; on the data of the last run
```

{head}

{results.table(titles, table)}

![FID against seconds of training](../benchmarks/results/peers.png)

How long ours take to the FID that the best peer has at the end, between their measured times on a
straight line through the logarithms of both:

{results.table(["", "best peer", "its FID", "seconds to it", "times as fast"], _races(rows))}

Where seconds go: our networks are small and their layouts are those that processors like; the
diffusion models of libraries are made for GPUs, and see few images on a processor. Dense networks,
as pythae's VAE has them, see more images than convolutions, which are still ahead; the other judges
(second FID) see the two VAEs nearer to each other.

Models of ours are trained as params.yaml says, on as many images as fit into the time: each length
is a training of its own, since the rate falls over all of it. Peers go on for the longest time and
are interrupted. Beside what is said here, each is trained as its own documentation does it:

{settings}

with {packages}.
"""


def draw(found: Mapping[str, Any]) -> None:
    """Write the picture: a panel for each kind, the mean and the range of seeds."""
    rows = found["rows"]
    kinds = [kind for kind in contenders.KINDS if any(c.kind == kind for c in _shown(rows))]
    with results.picture("peers", len(kinds)) as panels:
        for axes, kind in zip(panels, kinds, strict=True):
            for contender in _shown(rows):
                if contender.kind != kind:
                    continue
                curve = _curve(_of(rows, contender.name))
                x, mean, low, high = np.array(curve).T
                axes.errorbar(
                    *(x, mean),
                    yerr=(mean - low, high - mean),
                    linestyle="-" if contender.ours else "--",
                    marker="o" if contender.ours else "s",
                    markersize=4,
                    capsize=3,
                    label=contender.title,
                )
            axes.axhline(found["real"]["fid"], color="grey", linestyle=":", label="real images")
            axes.set_title(kind)
            results.dress(axes, x="seconds of training", y="FID (judge)")
            axes.set_xticks(sorted({row["seconds"] for row in rows}))
            axes.xaxis.set_minor_formatter("")
            axes.yaxis.set_minor_formatter("{x:g}")


def _shown(rows: Rows) -> list[contenders.Contender]:
    names = {row["contender"] for row in rows}
    return [each for name, each in contenders.KNOWN.items() if name in names]


def _of(rows: Rows, name: str) -> Rows:
    return [row for row in rows if row["contender"] == name]


def _curve(rows: Rows) -> list[tuple[float, float, float, float]]:
    """Seconds that it was trained, and mean, least and largest FID over seeds, by seconds."""
    found = []
    for seconds in sorted({row["seconds"] for row in rows}):
        at = [row for row in rows if row["seconds"] == seconds]
        fids = [row["fid"] for row in at]
        found.append(
            (_mean(row["trained_seconds"] for row in at), _mean(fids), min(fids), max(fids))
        )
    return found


def _row(contender: contenders.Contender, rows: Rows, seconds: Sequence[float]) -> list[str]:
    last = [row for row in rows if row["seconds"] == seconds[-1]]
    return [
        contender.title,
        f"{rows[0]['parameters']:,}",
        f"{_mean(row['images_per_second'] for row in last):,.0f}",
        *(f"{mean:.1f} ({low:.1f}..{high:.1f})" for _, mean, low, high in _curve(rows)),
        f"{_mean(row['second_fid'] for row in last):.1f}",
        f"{1000 * _mean(row['seconds_per_sample'] for row in last):,.1f}",
        str(rows[0]["network_evaluations"]),
    ]


def _races(rows: Rows) -> list[list[str]]:
    """Each of ours against the best peer of its kind."""
    shown = _shown(rows)
    curves = {each.name: _curve(_of(rows, each.name)) for each in shown}
    table = []
    for ours in shown:
        peers = [each for each in shown if each.kind == ours.kind and not each.ours]
        if not ours.ours or not peers:
            continue
        best = min(peers, key=lambda each: curves[each.name][-1][1])
        end, wanted, *_ = curves[best.name][-1]
        reached = time_to(wanted, [(x, mean) for x, mean, *_ in curves[ours.name]])
        sign = {"at": "", "by": "≤ ", "after": "> "}[reached.how]
        told = f"{sign}{reached.seconds:.0f}"
        table.append([ours.title, best.title, f"{wanted:.1f}", told, reached.times(end)])
    return table


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
