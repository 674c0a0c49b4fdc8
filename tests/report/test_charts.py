import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from pipeline.report import charts
from pipeline.report.charts import Axis, Line, Point


def parsed(svg):
    return ElementTree.fromstring(svg)


def circles(svg):
    return {
        group.find("title").text.split(":")[0]: (
            float(group.find("circle").get("cx")),
            float(group.find("circle").get("cy")),
        )
        for group in parsed(svg).iter("g")
    }


def points(**places):
    return [Point(name, "#123456", x, y) for name, (x, y) in places.items()]


@pytest.mark.parametrize("log", [True, False])
def test_an_axis_keeps_order_and_stays_inside(log):
    axis = Axis([3, 40, 700], 10, 110, log=log)
    places = [axis.place(value) for value in (3, 40, 700)]
    assert places == sorted(places)
    assert places[0] > 10 and places[-1] < 110


def test_a_logarithmic_axis_shows_factors_as_equal_distances():
    axis = Axis([1, 100], 0, 100, log=True)
    assert axis.place(10) - axis.place(1) == pytest.approx(axis.place(100) - axis.place(10))


@pytest.mark.parametrize("values", [[0.3, 250], [1e6, 3e12], [7, 7], [0.011, 0.019]])
def test_logarithmic_ticks_are_round_and_in_the_range(values):
    axis = Axis(values, 0, 100, log=True)
    for tick in axis.ticks():
        assert axis.low <= tick <= axis.high
        assert round(tick / 10 ** math.floor(math.log10(tick) + 1e-9), 6) in (1, 2, 5)


@pytest.mark.parametrize("values", [[-3, 250], [0, 0], [7, 7], [0.011, 0.019]])
def test_linear_ticks_are_evenly_spaced_and_in_the_range(values):
    axis = Axis(values, 0, 100, log=False)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 10
    steps = {round(b - a, 9) for a, b in pairwise(ticks)}
    assert len(steps) == 1
    assert all(axis.low <= tick <= axis.high for tick in ticks)


def test_the_unbeaten_are_those_that_nobody_is_better_than_on_both():
    every = points(
        cheap=(1, 9), beaten=(2, 9.5), good=(5, 2), same=(5, 3), best=(8, 1), poor=(9, 7)
    )
    assert [each.name for each in charts.unbeaten(every)] == ["cheap", "good", "best"]


def test_left_is_less_and_down_is_less():
    found = circles(charts.scatter(points(a=(1, 10), b=(100, 1)), "t", "x", "y"))
    assert found["a"][0] < found["b"][0]
    assert found["a"][1] < found["b"][1]  # SVG counts down


def test_names_cover_neither_each_other_nor_a_mark():
    near = {f"model_{i}": (10 + i / 10, 5 + i / 100) for i in range(5)}
    svg = charts.scatter(points(**near, far=(1000, 0.1)), "t", "x", "y")
    boxes = [
        charts.Box(left, top - 11, left + charts.LETTER * len(text.text), top + 3)
        for text in parsed(svg).iter("text")
        if text.get("class") == "label"
        for left, top in [(float(text.get("x")), float(text.get("y")))]
    ]
    marks = [charts.Box(x - 5, y - 5, x + 5, y + 5) for x, y in circles(svg).values()]
    assert len(boxes) == len(marks) == 6
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in [*boxes[:i], *marks])


def test_long_names_have_room():
    svg = parsed(charts.ranges([Point("a" * 80, "#111111", 2), Point("b", "", 3)], "t", "FID"))
    name = next(text for text in svg.iter("text") if text.text == "a" * 80)
    assert float(name.get("x")) > charts.LETTER * 80
    assert float(svg.get("viewBox").split()[2]) > charts.LETTER * 80 + 300


def test_ranges_come_in_the_order_given_with_their_whiskers():
    every = [Point("a", "#111111", 2, low=1.5, high=3), Point("real", "", 0.5, muted=True)]
    svg = charts.ranges(every, "t", "FID")
    found = circles(svg)
    assert found["a"][1] < found["real"][1]
    whisker = next(e for e in parsed(svg).iter("line") if e.get("class") == "whisker")
    assert float(whisker.get("x1")) < found["a"][0] < float(whisker.get("x2"))
    assert 'class="reference"' in svg


def test_curves_pass_through_their_points():
    svg = charts.lines([Line("loss", "#111111", [(0, 4), (10, 2), (20, 1)])], "t", "images")
    path = next(e for e in parsed(svg).iter("polyline")).get("points")
    places = [tuple(map(float, pair.split(","))) for pair in path.split()]
    assert len(places) == 3
    assert places[0][0] < places[1][0] < places[2][0]
    assert places[0][1] < places[1][1] < places[2][1]


def test_charts_say_what_they_show_and_escape_what_they_are_given():
    for svg in (
        charts.scatter(points(**{"a<b": (1, 2), "c&d": (3, 4)}), "x & <y>", "x<", "y&"),
        charts.ranges([Point("a<b", "", 1)], "x & <y>", "x<"),
        charts.lines([Line("a<b", "#111111", [(0, 1), (1, 2)])], "x & <y>", "x<"),
    ):
        assert parsed(svg).get("aria-label") == "x & <y>"
        assert parsed(svg).get("role") == "img"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.00123"), (5, "5"), (1234, "1.23 k"), (2.5e6, "2.5 M"), (7e15, "7 P")],
)
def test_numbers_are_short(value, text):
    assert charts.number(value) == text


def test_equal_values_give_equal_bytes():
    every = points(a=(1, 10), b=(100, 1))
    assert charts.scatter(every, "t", "x", "y") == charts.scatter(every, "t", "x", "y")
    assert not re.search(r"id=", charts.scatter(every, "t", "x", "y"))
