"""The colours of models, the same on every page that shows them."""

from collections import Counter
from collections.abc import Iterable

from pipeline import families

PALETTE = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7",
    "#9c755f", "#17becf", "#bcbd22", "#8c564b", "#1f3a5f", "#7fc97f", "#d147a3", "#79706e",
)  # fmt: skip
SHADES = (0.0, -0.35, 0.35, -0.6, 0.6)
"""How much darker or lighter the first, second, ... model of a family is than its colour."""


def colour(family: str, place: int = 0) -> str:
    """The colour of a model's runs: its family's, in a shade by its ``place`` in the family."""
    known = families.names()
    number = known.index(family) if family in known else len(known)
    base = PALETTE[number % len(PALETTE)]
    shade = SHADES[place % len(SHADES)]
    target = 255 if shade > 0 else 0
    levels = (int(base[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(each + abs(shade) * (target - each)):02x}" for each in levels)


def of_models(models: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Colours of models, given (name, family) in the order of params.yaml."""
    places: Counter[str] = Counter()
    found = {}
    for name, family in models:
        found[name] = colour(family, places[family])
        places[family] += 1
    return found
