import json
import re
from pathlib import Path

import pytest

from pipeline.comparison import collect, spread
from pipeline.evaluation import inception, quality, translation

ROOT = Path(__file__).parents[2]
METRICS = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`([a-z_<>0-9]+)`", METRICS)
PATTERNS = [re.compile(re.sub("<[a-z]+>", ".+", name) + "$") for name in NAMES]


def committed():
    """The keys of all results that stand in metrics/."""
    found = set()
    for path in (ROOT / "metrics/models").glob("*.json"):
        found |= json.loads(path.read_text()).keys()
    return found


@pytest.mark.parametrize(
    "keys",
    [
        collect.COLUMNS,
        quality.KEYS,
        quality.COPYING_KEYS,
        quality.CLASS_KEYS,
        translation.KEYS,
        re.findall(r'"(inception_\w+)":', Path(inception.__file__).read_text()),
        spread.COLUMNS,
        sorted(committed()),
    ],
    ids=lambda keys: keys[0],
)
def test_every_column_is_explained(keys):
    unknown = [key for key in keys if not any(pattern.match(key) for pattern in PATTERNS)]
    assert unknown == []


def test_links_of_the_readme_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
