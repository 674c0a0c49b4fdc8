import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from pipeline.core.errors import PipelineError
from pipeline.sampling.pictures import (
    GAP,
    MARGIN,
    PAPER,
    by_class,
    from_array,
    grid,
    in_turn,
    labelled_rows,
    save_png,
    save_rows,
)


def images(n, channels=1, height=28, width=28, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, (n, channels, height, width), dtype=np.uint8
    )


def test_grid_size_mode_and_scale():
    picture = grid(images(7), columns=3)
    assert picture.mode == "L"
    # Three columns and three rows of 28 px, doubled, and two gaps each way.
    assert picture.size == (3 * 56 + 2 * GAP, 3 * 56 + 2 * GAP)
    assert grid(images(4, channels=3, height=8, width=8), columns=2).mode == "RGB"
    assert grid(images(2), columns=5).size[0] == 2 * 56 + GAP
    assert grid(images(1, height=200, width=100), columns=1).size == (100, 200)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_image_is_in_its_place(channels):
    original = images(5, channels)
    pixels = np.asarray(grid(original, columns=2)).reshape(3 * 56 + 2 * GAP, -1, channels)
    for i in range(5):
        top, left = (i // 2) * (56 + GAP), (i % 2) * (56 + GAP)
        cell = pixels[top : top + 56, left : left + 56]
        for offset in (0, 1):
            np.testing.assert_array_equal(
                cell[offset::2, offset::2].transpose(2, 0, 1), original[i]
            )
    assert (pixels[-56:, -56:] == PAPER).all()
    assert (pixels[56 : 56 + GAP] == PAPER).all()


def test_labelled_rows_put_the_names_left_of_the_images():
    rows = [("real images", images(4)), ("a", images(2, seed=1)), ("gone", images(0))]
    picture = labelled_rows(rows)
    strip = 4 * 56 + 3 * GAP
    height = 2 * MARGIN + 3 * 56 + 2 * GAP
    assert picture.height == height
    left = picture.width - strip - MARGIN
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(
        pixels[MARGIN : MARGIN + 56 : 2, left : left + 56 : 2], rows[0][1][0, 0]
    )
    for i in range(3):
        top = MARGIN + i * (56 + GAP)
        name = pixels[top : top + 56, :left]
        assert name.min() < 100, "the name is missing or too faint to be read"
        assert (name[:, :MARGIN] == PAPER).all()
        assert (name[:, -MARGIN + 1 :] == PAPER).all()
    gone = MARGIN + 2 * (56 + GAP)
    assert (pixels[gone : gone + 56, left:] == PAPER).all()


def test_a_word_stands_above_each_image_and_is_cut_where_it_is_too_long():
    rows = [("real", images(3)), ("", images(1, seed=1)), ("a", images(3, seed=2))]
    plain, named = labelled_rows(rows), labelled_rows(rows, [["apple", "", "w" * 40], ["x"]])
    assert named.width == plain.width
    strip = (named.height - plain.height) // 2
    assert strip > 12 and named.height == plain.height + 2 * strip
    pixels, left = np.asarray(named), named.width - MARGIN - 3 * 56 - 2 * GAP
    heads = pixels[MARGIN : MARGIN + strip - GAP, left:]
    inked = [(heads[:, i * 58 : i * 58 + 56] < 100).any() for i in range(3)]
    assert inked == [True, False, True]
    assert (heads[:, 2 * 58 + 56 :] == PAPER).all(), "it runs out of the picture"
    top = MARGIN + strip
    np.testing.assert_array_equal(
        pixels[top : top + 56, left:-MARGIN], np.asarray(plain)[MARGIN : MARGIN + 56, left:-MARGIN]
    )
    last = np.asarray(plain)[-MARGIN - 56 :]
    np.testing.assert_array_equal(pixels[-MARGIN - 56 :], last)


def test_classes_come_in_turn_and_are_passed_over_where_they_run_out():
    labels = np.array([2, 2, 0, 2, 1])
    assert in_turn(labels, 3, 9).tolist() == [2, 4, 0, 1, 3]
    assert in_turn(labels, 3, 2).tolist() == [2, 4]
    assert in_turn(labels, 2, 9).tolist() == [2, 4]


@pytest.mark.parametrize(
    ("classes", "shape", "first"),
    [
        (1, (10, 10), [0, 1, 2]),
        (3, (10, 9), [0, 1, 2, 3, 4]),
        (7, (10, 7), [*range(14)]),
        (10, (10, 10), [*range(30)]),
        (26, (9, 10), [*range(26), None, None, None, None, 26]),
        (100, (10, 10), [*range(100)]),
        (120, (10, 10), [*range(100)]),
    ],
)
def test_a_table_shows_all_classes_in_turn(classes, shape, first):
    drawn, labels = images(240, height=4, width=4), np.arange(240) % classes
    found = by_class(drawn, labels, classes, columns=10, lines=10)
    assert found.shape == (*shape, 1, 4, 4)
    cells = found.reshape(-1, 1, 4, 4)
    for cell, index in zip(cells, first, strict=False):
        np.testing.assert_array_equal(cell, PAPER if index is None else drawn[index])


def test_a_class_that_runs_out_leaves_paper_and_one_that_is_not_there_no_column():
    drawn = images(5, height=4, width=4)
    found = by_class(drawn, np.array([0, 2, 2, 2, 2]), 3, columns=2, lines=9)
    assert found.shape[:2] == (4, 2)
    np.testing.assert_array_equal(found[0], drawn[:2])
    assert (found[1:, 0] == PAPER).all()
    np.testing.assert_array_equal(found[1:, 1], drawn[2:])


def test_longer_names_get_more_room():
    short, long = (labelled_rows([(name, images(1))]) for name in ("vae", "vae" * 10))
    assert long.width > short.width + 100


def test_rgb_rows():
    assert labelled_rows([("real", images(2, channels=3))]).mode == "RGB"


@pytest.mark.parametrize(
    "draw",
    [
        lambda: grid(images(0), 2),
        lambda: grid(images(2), 0),
        lambda: grid(images(2, channels=2), 2),
        lambda: grid(images(2).astype(float), 2),
        lambda: labelled_rows([]),
        lambda: labelled_rows([("a", images(0))]),
        lambda: labelled_rows([("a", images(1)), ("b", images(1, height=8))]),
        lambda: from_array(images(1)),
    ],
)
def test_what_is_no_picture_is_refused(draw):
    with pytest.raises(ValueError):
        draw()


def test_files_have_the_same_bytes_each_time(tmp_path):
    for name in ("a.png", "b.png"):
        save_png(tmp_path / name, labelled_rows([("real images", images(3))]))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_files_hold_pixels_and_nothing_else(tmp_path):
    picture = grid(images(4), 2)
    picture.info = {"dpi": (300, 300), "Comment": "made on a Tuesday", "transparency": 0}
    save_png(tmp_path / "new" / "a.png", picture)
    with (tmp_path / "new" / "a.png").open("rb") as stream:
        stream.read(8)
        chunks = PngImagePlugin.ChunkStream(stream)
        names = []
        while not names or names[-1] != b"IEND":
            name, _, length = chunks.read()
            chunks.crc(name, stream.read(length))
            names.append(name)
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}
    with Image.open(tmp_path / "new" / "a.png") as read:
        np.testing.assert_array_equal(np.asarray(read), np.asarray(picture))


def test_a_picture_of_rows_is_the_grid_of_its_images(tmp_path):
    save_rows(tmp_path / "a.png", images(6, channels=3).reshape(2, 3, 3, 28, 28))
    with Image.open(tmp_path / "a.png") as read:
        expected = grid(images(6, channels=3), columns=3)
        np.testing.assert_array_equal(np.asarray(read), np.asarray(expected))


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, grid(images(1), 1))
    before = path.read_bytes()
    with pytest.raises(PipelineError, match=r"a\.png: cannot be written"):
        save_png(path, Image.new("HSV", (2, 2)))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"]
