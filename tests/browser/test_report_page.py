"""The report in a real browser. Needs Chromium: `apt install chromium`, or what your system has."""

import json
import re
import shutil
import subprocess

import pytest
from compared import project as project
from reported import made as made

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]
ASK = """
<script>
const table = () => document.querySelector("#leaderboard table");
const heads = [...document.querySelectorAll("#leaderboard th")];
const column = heads.findIndex(head => head.textContent.startsWith("%s"));
const button = heads[column].firstElementChild;
button.focus();
for (let i = 0; i < %d; i++) button.click();
const boxes = document.querySelectorAll("#leaderboard .choice input");
if (%s) boxes[boxes.length - 1].click();
const found = {
  focused: document.activeElement === button,
  sort: heads[column].getAttribute("aria-sort"),
  others: heads.filter(head => head.hasAttribute("aria-sort")).length,
  cells: [...document.querySelectorAll("#leaderboard tbody tr")].map(
    row => row.cells[column].textContent.trim()),
  wide: document.documentElement.scrollWidth > innerWidth,
  cut: table().scrollWidth > table().parentElement.clientWidth,
  hidden: heads.filter(head => head.classList.contains("off")).map(head => head.textContent),
  boxes: [...document.querySelectorAll("#leaderboard .choice input")].map(box => box.checked),
  told: document.querySelector("#leaderboard summary").textContent,
  unnamed: [...document.images].filter(image => !image.alt || !image.naturalWidth).length,
};
document.body.textContent = "FOUND" + JSON.stringify(found) + "END";
</script></body>
"""


def ask(page, tmp_path, column="FID", clicks=1, width=1280, last_box=False):
    """What the page says of itself after ``clicks`` on a column's head, and on the last box."""
    file = tmp_path / "asked.html"
    file.write_text(page.replace("</body>", ASK % (column, clicks, str(last_box).lower())))
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--virtual-time-budget=5000",
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return json.loads(re.search("FOUND(.*)END", done.stdout)[1])


def numbers(cells):
    return [float(cell) for cell in cells if re.fullmatch(r"[\d.]+", cell)]


@pytest.mark.parametrize(("clicks", "sort"), [(1, "ascending"), (2, "descending")])
def test_a_column_sorts_and_says_so(made, tmp_path, clicks, sort):
    found = ask(made[1], tmp_path, "FID", clicks)
    assert (found["sort"], found["others"], found["focused"]) == (sort, 1, True)
    values = numbers(found["cells"])
    assert len(values) > 2
    assert values == sorted(values, reverse=sort == "descending")


def test_where_more_is_better_the_largest_comes_first(made, tmp_path):
    page = made[1].replace(">FID (judge) ↓<", ">FID (judge) ↑<")
    assert ask(page, tmp_path)["sort"] == "descending"


def test_what_does_not_apply_comes_last(made, tmp_path):
    for clicks in (1, 2):
        cells = ask(made[1], tmp_path, "bits/dim", clicks)["cells"]
        first = next(i for i, cell in enumerate(cells) if cell in ("n/a", ""))
        assert set(cells[first:]) <= {"n/a", ""}
        assert first >= 1


@pytest.mark.parametrize("width", [1280, 500])
def test_the_page_fits_its_window_and_shows_its_pictures(made, tmp_path, width):
    found = ask(made[1], tmp_path, width=width)
    assert not found["wide"]
    assert found["unnamed"] == 0


@pytest.mark.parametrize("width", [2000, 1280, 700])
def test_the_leaderboard_shows_the_columns_that_fit(made, tmp_path, width):
    found = ask(made[1], tmp_path, width=width)
    assert not found["cut"]
    heads = len(found["boxes"]) + 1  # the model's name stays
    shown = heads - len(found["hidden"])
    assert found["told"].startswith(f"Columns: {shown} of {heads}")
    assert found["boxes"].count(False) == len(found["hidden"])
    if width == 700:
        assert found["hidden"] and not any("FID (judge)" in head for head in found["hidden"])


def test_a_column_that_a_reader_chooses_is_shown(made, tmp_path):
    before = ask(made[1], tmp_path, width=700)
    after = ask(made[1], tmp_path, width=700, last_box=True)
    assert len(after["hidden"]) == len(before["hidden"]) - 1
    assert after["boxes"][-1]


def test_the_page_begins_with_the_answer(made):
    page = made[1]
    assert page.index('id="answer"') < page.index('id="leaderboard"')
