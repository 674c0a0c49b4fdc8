"""What people look for in a model, and what its numbers are read against.

A purpose is a metric with the words around it: its value, where that stands between reference rows
that need no training (`pipeline.evaluation.reference`), and what a reader must know beside it.
`pipeline.comparison.recommendation` answers each of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from pipeline.comparison.collect import Row, conditional
from pipeline.comparison.questions import number
from pipeline.comparison.ties import TIE_FACTOR

REAL, PNG = "real", "png"
CALLED = {"fid": "FID", "second_fid": "second FID"}
"""What samples are compared by; see `sample_key`."""
UNLEARNT = {"histogram": "independent pixels", "mean": "the mean image"}
"""Reference rows (`pipeline.evaluation.reference`) of what learns next to nothing."""


@dataclass(frozen=True)
class Purpose:
    """What is looked for: the smallest value of ``key``.

    Attributes:
        name: for people.
        key: the metric.
        value: shows it.
        scale: what a row's value is read against, given the reference rows by name.
        guess: whether single trainings are a tie within `TIE_FACTOR`, as FIDs are.
        caveats: what there is to know of the best row, given the reference rows by name.
        serves: which rows are looked at.
        narrower: whether it asks less than one before it, so that it needs no answer where that
            one has the same.
    """

    name: str
    key: str
    value: Callable[[Row], str]
    scale: Callable[[Row, Mapping[str, Row]], str]
    guess: bool
    caveats: Callable[[Row, Mapping[str, Row]], list[str]]
    serves: Callable[[Row], bool] = lambda row: True
    narrower: bool = False


def _sample_scale(row: Row, known: Mapping[str, Row], key: str = "fid") -> str:
    """Where a FID stands between real training images and what learns next to nothing."""
    real, (nothing, name) = value_of(known, REAL, key), unlearnt(known, key)
    if real is None or nothing is None:
        return ""
    scale = f"({real:.2f}; {name}: {nothing:.2f})"
    if row[key] >= nothing:
        return f"no better than {name} ({nothing:.2f}; real training images: {real:.2f})"
    if row[key] <= real:
        return f"as near to the test images as real training images {scale}"
    if row[key] * TIE_FACTOR >= nothing:
        return f"hardly better than {name} ({nothing:.2f}; real training images: {real:.2f})"
    if row[key] <= real * TIE_FACTOR:
        return f"nearly as near to the test images as real training images {scale}"
    return f"where real training images have {real:.2f} and {name} {nothing:.2f}"


def _likelihood_scale(row: Row, known: Mapping[str, Row]) -> str:
    png, pixels = (value_of(known, name, "bits_per_dim") for name in (PNG, "histogram"))
    if png is None or pixels is None:
        return ""
    if row["bits_per_dim"] >= png:
        return f"no better than PNG ({png:.3f}; {UNLEARNT['histogram']}: {pixels:.3f})"
    return f"where PNG needs {png:.3f} and {UNLEARNT['histogram']} {pixels:.3f}"


def _reconstruction_scale(row: Row, known: Mapping[str, Row]) -> str:
    size = len("pca_")
    components = sorted(int(name[size:]) for name in known if name.startswith("pca_"))
    average = value_of(known, "mean", "reconstruction_mse")
    if not components or average is None:
        return ""
    found = {k: known[f"pca_{k}"]["reconstruction_mse"] for k in components}
    fewest = components[0]
    if row["reconstruction_mse"] >= found[fewest]:
        return (
            f"no better than PCA of {fewest} components ({found[fewest]:.5f}; {UNLEARNT['mean']}: "
            f"{average:.5f})"
        )
    pca = listed([f"{mse:.5f} with {k} components" for k, mse in found.items()])
    return f"where PCA has {pca}, and {UNLEARNT['mean']} {average:.5f}"


def _sample_caveats(row: Row, known: Mapping[str, Row]) -> list[str]:
    found = []
    if conditional(row):
        found.append("it is told which class to draw")
    # Of few images, or of others than the training split has, real ones do not cover them either.
    real = value_of(known, REAL, "coverage")
    if row.get("coverage") is not None and row["coverage"] < 0.9 * (1 if real is None else real):
        than = "" if real is None else f" (real training images: {100 * real:.0f} %)"
        found.append(
            f"its samples cover {100 * row['coverage']:.0f} % of the test images' neighbourhoods"
            f"{than}"
        )
    for key in ("latent_density", "prior"):
        if row.get(key):
            found.append(f"its samples are as much those of its {key.replace('_', ' ')}")
    return found


def _likelihood_caveats(row: Row, known: Mapping[str, Row]) -> list[str]:
    if row.get("likelihood_bound") == "exact":
        return []
    return [f"an upper bound ({row.get('likelihood_bound')}), so the true value may be lower"]


def _code_caveats(row: Row, known: Mapping[str, Row]) -> list[str]:
    return ["codes differ in size, so this ranks reconstructions and not models"]


def _fid(row: Row) -> str:
    return f"FID {number('fid', '.2f')(row)}"


PURPOSES = (
    Purpose("best samples", "fid", _fid, _sample_scale, True, _sample_caveats),
    Purpose(
        "without labels",
        "fid",
        _fid,
        _sample_scale,
        True,
        _sample_caveats,
        lambda row: not conditional(row),
        narrower=True,
    ),
    Purpose(
        "likelihood",
        "bits_per_dim",
        lambda row: f"{number('bits_per_dim', '.3f')(row)} bits/dim",
        _likelihood_scale,
        False,
        _likelihood_caveats,
    ),
    Purpose(
        "reconstruction",
        "reconstruction_mse",
        lambda row: f"MSE {number('reconstruction_mse', '.5f')(row)}",
        _reconstruction_scale,
        False,
        _code_caveats,
    ),
)


BY_SECOND = tuple(
    replace(
        each,
        key="second_fid",
        value=lambda row: f"second FID {number('second_fid', '.2f')(row)}",
        scale=partial(_sample_scale, key="second_fid"),
    )
    for each in PURPOSES
    if each.key == "fid"
)
"""The same of samples, where only the judges of the other kind see what is known to be worse."""


def references(rows: Sequence[Row]) -> dict[str, Row]:
    """The reference rows by name."""
    return {row["model"]: row for row in rows if row["kind"] == "reference"}


def value_of(known: Mapping[str, Row], name: str, key: str) -> float | None:
    """A metric of a reference row, where it has it."""
    return known.get(name, {}).get(key)


def unlearnt(known: Mapping[str, Row], key: str) -> tuple[float | None, str]:
    """The best that something has which learns next to nothing, and what that is called."""
    found = [
        (value, called)
        for name, called in UNLEARNT.items()
        if (value := value_of(known, name, key)) is not None
    ]
    return min(found, default=(None, ""))


def listed(names: Sequence[str]) -> str:
    """Names as in a sentence."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def ranking(reference: Row | None) -> tuple[bool, bool]:
    """Whether the judges of the headline rank, and whether those of the other kind do."""
    verdict = (reference or {}).get("judges")
    if not verdict:
        return True, True
    others = [each["ranks"] for each in verdict["kinds"][1:]]
    return verdict["ranks"], bool(others) and all(others)


def sample_key(reference: Row | None) -> str:
    """What samples can be compared by; empty where the judges rank nothing."""
    first, second = ranking(reference)
    return "fid" if first else "second_fid" if second else ""
