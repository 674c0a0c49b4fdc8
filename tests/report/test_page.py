import re
import shutil
import struct
import zlib
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from compared import HOME, MODELS, PROTOCOL, metrics, reference, rewrite, verdict
from compared import project as project
from PIL import Image
from reported import made as made

from pipeline.comparison import collect, recommendation
from pipeline.comparison.colours import of_models
from pipeline.core import paths
from pipeline.core.errors import PipelineError
from pipeline.report import page
from stages import report as stage_report


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BROKEN_PICTURES = {
    "empty": b"",
    "text": b"<html>404</html>",
    "signature alone": b"\x89PNG\r\n\x1a\n",
    "half": lambda whole: whole[: len(whole) // 2],
    "cut at the end": lambda whole: whole[:-20],
    "another header": lambda whole: whole[:16] + b"\xff" * 8 + whole[24:],
    "a flipped bit": lambda whole: whole[:45] + bytes([whole[45] ^ 1]) + whole[46:],
    "no pixels": lambda whole: whole[:33] + chunk(b"IDAT", b"junk") + chunk(b"IEND", b""),
    "another format": b"GIF89a\x01\x00\x01\x00\x80\x00\x00\xff\xff\xff\x00\x00\x00;",
}


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.images, self.open, self.cells = set(), [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" else []
        self.images += [found] if tag == "img" else []
        self.open += [tag]

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th", "button", "a", "span"):
            self.cells.append(data.strip())


def test_nothing_on_the_page_comes_from_elsewhere(made):
    page = Page(made[1])
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.images)
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"https?://|@import|url\(", made[1])


def test_every_link_leads_somewhere_and_every_picture_says_what_it_shows(made):
    page = Page(made[1])
    assert {link[1:] for link in page.links} <= page.ids
    assert page.images
    for image in page.images:
        assert image["alt"]
        assert (image["width"], image["height"]) == ("12", "8")


def test_every_model_has_a_page_with_its_numbers_and_what_made_it(made):
    page = Page(made[1])
    assert {f"model-{name}" for name in MODELS} <= page.ids
    for text in ("6.00", "0.0071", "make repro MODELS=zeta", "not recorded", "odd one"):
        assert text in made[1]
    assert re.search(r"dvc\.lock: [0-9a-f]{64}", made[1])


def test_the_page_begins_with_what_to_take_as_the_terminal_says_it(made):
    raw, text = made
    found = recommendation.answers(collect.project_rows(raw, reference()))
    assert len(found) >= 4
    assert text.index('id="answer"') < text.index('id="leaderboard"')
    section = text.split('id="answer"')[1].split("</section>")[0]
    cards = section.split("<li>")[1:]
    assert len(cards) == len(found)
    for card, answer in zip(cards, found, strict=True):
        shown = unescape(re.sub("<[^>]*>", "", card))
        assert f"<h3>{answer.purpose.strip()}</h3>" in card
        assert f'href="#model-{answer.model}"' in card
        assert answer.number in shown and f"family {answer.family}" in shown
        for note in answer.notes():
            assert f"{note[0].upper()}{note[1:]}." in shown
    assert "stranger" not in section and "broken" not in section
    words = unescape(re.sub("<[^>]*>", "", text))
    assert (
        recommendation.opening(collect.project_rows(raw, reference()), reference(), "toy") in words
    )
    assert "After a change: no baseline of toy yet: make baseline trains one" in words


def test_the_classes_that_pictures_show_are_named_in_their_order(made):
    raw, plain = made
    assert "classes come in turn; at most 100 of them are shown." in plain
    images = {"shape": [1, 28, 28], "train": 360, "val": 40, "test": 100}
    for names, told in (
        (["apple", "<banana>"], "classes come in turn: apple, &lt;banana&gt;; at most 100"),
        ([f"c{i}" for i in range(1, 104)], "c99, c100 and 3 more; at most 100"),
        (["images"], "classes come in turn; at most 100"),
    ):
        shown = page.render(raw, reference() | {"images": images | {"classes": names}})
        assert told in shown


def test_where_nothing_can_be_recommended_there_is_no_answer(made):
    raw, _ = made
    for name in MODELS:
        HOME.model_metrics(name).unlink(missing_ok=True)
    found = page.render(raw, reference())
    assert 'id="answer"' not in found and "#answer" not in found
    assert 'id="leaderboard"' in found


def test_colours_of_models_are_those_of_their_runs_in_mlflow(made):
    raw, text = made
    named = [(name, each["family"]) for name, each in raw["models"].items()]
    for name, colour in of_models(named).items():
        assert f'style="background: {colour}"></span>{name} ' in text


def test_pictures_of_the_evaluation_stand_beside_those_of_the_samples(made):
    raw, before = made
    picture = Image.fromarray(np.full((9, 13), 7, np.uint8))
    paths.scores_dir("alpha").mkdir(parents=True)
    picture.save(paths.scores_dir("alpha") / "closest_call.png")
    after = Page(page.render(raw, reference())).images
    assert len(after) == len(Page(before).images) + 1
    (added,) = [image for image in after if (image["width"], image["height"]) == ("13", "9")]
    assert added["alt"] == "alpha: closest call"


def test_failed_models_and_other_protocols_are_not_ranked(made):
    leaders = made[1].split('id="leaderboard"')[1].split("</section>")[0]
    assert "stranger" not in leaders
    assert "broken" in leaders and "no metrics" in leaders
    assert "uniform noise" in leaders and "PCA-32" not in leaders
    assert "<strong>No metrics</strong>, since they failed or were not run: broken" in made[1]


def test_values_on_the_page_are_those_of_the_metrics(made):
    leaders = made[1].split('id="leaderboard"')[1].split("</section>")[0]
    row = leaders.split("model-alpha")[1].split("</tr>")[0]
    assert f"{metrics()['alpha']['fid']:.2f}" in row


@pytest.mark.parametrize("content", BROKEN_PICTURES.values(), ids=BROKEN_PICTURES)
def test_a_picture_that_is_none_is_named(made, content):
    path, told = HOME.pictures_dir("zeta") / "samples.png", "not a whole PNG file"
    whole = path.read_bytes()
    path.write_bytes(content(whole) if callable(content) else content)
    with pytest.raises(PipelineError, match=rf"^metrics/toy/pictures/zeta/samples\.png: {told}"):
        page.render(made[0], reference())


def test_a_curve_that_is_none_is_named(made):
    HOME.curve("zeta").write_text("step,images,loss\n1,2\n")
    with pytest.raises(PipelineError, match=r"^metrics/toy/curves/zeta\.csv: line 2 has 2 cells"):
        page.render(made[0], reference())


def test_numbers_at_the_ends_of_what_is_allowed_are_drawn(made):
    """Charts have logarithmic axes."""
    raw, _ = made
    zero = {"fid": 0.0, "fid_min": 0.0, "fid_max": 0.0}
    rewrite(HOME.model_metrics("zeta"), **zero, images_seen=0, bits_per_dim=-0.5)
    assert "zeta" in page.render(raw, reference())
    large = dict.fromkeys(("fid", "fid_min", "fid_max", "images_seen", "parameters"), 1e100)
    rewrite(HOME.model_metrics("zeta"), **large, training_flops_per_image=10**100)
    HOME.curve("zeta").write_text("step,images,loss\n1,1,1e100\n2,2,-1e100\n3,3,\n")
    assert "zeta" in page.render(raw, reference())


def test_code_is_marked_as_such(made):
    notes = "".join(re.findall(r'<p class="note">.*?</p>', made[1], re.DOTALL))
    assert "<code>make thorough</code>" in notes and "<code>exact</code>" in notes
    assert "`" not in notes


def test_equal_inputs_give_equal_bytes(made):
    assert page.render(made[0], reference()) == made[1]


def test_charts_need_two_models_that_have_both_values(made):
    assert "FID (judge) against operations in training" in made[1]
    assert "bits/dim against" not in made[1]


def test_names_are_escaped(made):
    raw, _ = made
    block = {**MODELS, "zeta": {"family": "vae", "note": "<script>alert(1)</script>"}}
    raw["models"] = block
    assert "<script>alert" not in page.render(raw, reference())


def test_the_stage_writes_one_file(made, monkeypatch):
    Path("dvc.yaml").write_text("stages:\n  report:\n    params: [models]\n")
    monkeypatch.setattr(collect, "read_reference", lambda path: reference())
    shutil.rmtree(HOME.report, ignore_errors=True)
    stage_report.main()
    assert [path.name for path in HOME.report.iterdir()] == ["index.html"]
    assert PROTOCOL["protocol"] in HOME.page.read_text()


def test_judges_that_do_not_judge_are_told_at_the_head_of_the_page(made):
    raw, page_without = made
    told = page.render(raw, reference() | {"judges": verdict("they see no <blur>")})
    said = told.index("rank nothing, because they see no &lt;blur&gt;.")
    assert said < told.index("<nav") and "rank nothing" not in page_without
