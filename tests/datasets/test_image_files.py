"""Which files of a folder are images, and what is read of one: one policy for all ways in."""

import os
import random
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import PipelineError
from pipeline.datasets import image_files


def picture(seed=0, size=(20, 14), mode="RGB"):
    width, height = size
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def put(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture().save(folder / name)
    return folder


def found(folder, **options):
    return [each.relative_to(folder).as_posix() for each in image_files.find(folder, **options)]


def png(width, height, *, depth=8, colour=2, data=b""):
    """The bytes of a PNG file that holds next to nothing, whatever its header says."""

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


# --- finding -----------------------------------------------------------------------------------


def test_numbers_in_names_are_compared_as_numbers(tmp_path):
    names = [f"{part}/sample_{i}.png" for part in ("b2", "b10") for i in (0, 1, 2, 10, 100)]
    put(tmp_path, *reversed(names), "sample_01.png", "sample_1.png")
    assert found(tmp_path, inside=True) == [*names, "sample_01.png", "sample_1.png"]


def test_images_are_known_by_content_or_name_and_folders_are_folders(tmp_path):
    put(tmp_path, "a.png", "b.JPG", "c.webp", "x.png/d.tif", "e/f.bmp")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "g.gif").write_bytes(b"broken")
    assert found(tmp_path) == ["a.png", "b.JPG", "c.webp", "g.gif"]
    inside = ["a.png", "b.JPG", "c.webp", "e/f.bmp", "g.gif", "x.png/d.tif"]
    assert found(tmp_path, inside=True) == inside
    assert image_files.look(tmp_path).others == 1


@pytest.mark.parametrize("kind", image_files.FORMATS)
def test_an_image_without_an_ending_is_one(tmp_path, kind):
    picture(3).save(tmp_path / "data.bin", kind, lossless=True)
    (tmp_path / "other.bin").write_bytes(b"BM, or so it begins, and GIF")
    assert found(tmp_path) == ["data.bin"]
    if kind not in ("JPEG", "GIF"):
        read = image_files.read(tmp_path / "data.bin")
        np.testing.assert_array_equal(np.asarray(read), np.asarray(picture(3)))


def test_kinds_of_images_that_are_not_read_are_named(tmp_path):
    put(tmp_path, "a.png")
    (tmp_path / "IMG_1.HEIC").write_bytes(b"....ftypheic")
    picture().save(tmp_path / "raw.dng", "TIFF")  # as it seems
    seen = image_files.look(tmp_path)
    assert [each.name for each in seen.foreign] == ["IMG_1.HEIC", "raw.dng"]
    assert [each.name for each in seen.images] == ["a.png"]
    with pytest.raises(PipelineError, match=r"IMG_1\.HEIC: HEIC, which is not read; make a PNG"):
        image_files.find(tmp_path)


def test_what_systems_and_editors_leave_is_left_out(tmp_path):
    put(tmp_path, "a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png", ".hidden/a.png")
    (tmp_path / "._a.png").write_bytes(b"a file system's")
    (tmp_path / ".b.png").symlink_to("nowhere")
    (tmp_path / "Thumbs.db").write_bytes(b"")
    assert found(tmp_path, inside=True) == ["a.png"]


def test_a_folder_may_itself_be_hidden_and_links_lead_somewhere(tmp_path):
    real = put(tmp_path / "elsewhere", "0.png")
    folder = put(tmp_path / ".cache" / "mine", "a.png")
    (folder / "b.png").symlink_to(real / "0.png")
    (folder / "c").symlink_to(real)
    assert found(folder, inside=True) == ["a.png", "b.png", "c/0.png"]


def dangling(folder):
    (folder / "odd.png").symlink_to("nowhere")


def loop(folder):
    (folder / "odd.png").symlink_to("odd.png")


def lost_folder(folder):
    (folder / "odd").symlink_to("nowhere")


def circle(folder):
    (folder / "odd").symlink_to(folder)


def twice(folder):
    put(folder, "one/a.png")
    (folder / "two").symlink_to(folder / "one")


def fifo(folder):
    os.mkfifo(folder / "odd.png")


def unix_socket(folder):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(folder / "odd.png"))


def device(folder):
    (folder / "odd.png").symlink_to("/dev/zero")


def foreign_name(folder):
    os.rename(bytes(folder / "a.png"), bytes(folder) + b"/caf\xe9.png")


def foreign_folder(folder):
    os.mkdir(bytes(folder) + b"/caf\xe9")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (dangling, r"odd\.png: a link that leads nowhere \(No such file.*remove"),
        (loop, r"odd\.png: a link that leads nowhere \(Too many levels.*remove"),
        (lost_folder, r"odd: a link that leads nowhere"),
        (circle, r"odd: a link to .*mine, whose images would count twice; remove it"),
        (twice, r"(one: a link to .*two|two: a link to .*one), .*twice"),
        (fifo, r"odd\.png: called like an image, but neither a file nor a folder"),
        (unix_socket, r"odd\.png: called like an image, but neither a file nor a folder"),
        (device, r"odd\.png: called like an image, but neither a file nor a folder"),
        (foreign_name, r"caf\\xe9\.png: its name is not UTF-8; rename it"),
        (foreign_folder, r"caf\\xe9: its name is not UTF-8; rename it"),
    ],
)
def test_what_cannot_be_an_image_is_refused_by_name(tmp_path, monkeypatch, spoil, told):
    monkeypatch.chdir(tmp_path)
    folder = put(tmp_path / "mine", "a.png")
    spoil(folder)
    with pytest.raises(PipelineError, match=told) as caught:
        image_files.find(folder, inside=True)
    assert str(caught.value).isprintable()
    str(caught.value).encode()


def test_what_is_not_asked_for_is_not_refused(tmp_path):
    folder = put(tmp_path / "mine", "a.png")
    for spoil in (lost_folder, foreign_folder):
        spoil(folder)
    (folder / "notes.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    assert found(folder) == ["a.png"]


def test_names_are_shown_on_one_line(tmp_path):
    assert image_files.shown(tmp_path / "a\nb\x1b[31m.png").endswith(r"/a\nb\x1b[31m.png")
    odd = put(tmp_path / "mine", "Screenshot 10.00\u202fAM.png", "a\nb.png")
    assert len(found(odd)) == 2
    (odd / "a\nb.png").write_bytes(b"")
    with pytest.raises(PipelineError, match=r"/a\\nb\.png: .*empty") as caught:
        image_files.read(odd / "a\nb.png")
    assert "\n" not in str(caught.value)


# --- reading -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "RGBA", "LA"])
def test_other_colour_models_become_rgb(tmp_path, mode):
    image = picture(7, mode=mode)
    file = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}"
    image.save(file)
    read = image_files.read(file)
    assert read.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image.convert("RGB")))


def test_a_palette_with_an_opaque_alpha_becomes_rgb(tmp_path):
    image = picture(7, mode="P")
    image.save(tmp_path / "a.png", transparency=bytes([255] * 256))
    np.testing.assert_array_equal(
        np.asarray(image_files.read(tmp_path / "a.png")), np.asarray(image.convert("RGB"))
    )


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_photographs_are_turned_upright(tmp_path, suffix):
    image, exif = picture(7), Image.Exif()
    image.save(tmp_path / f"flat{suffix}", quality=95)
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    image.save(tmp_path / f"a{suffix}", exif=exif, quality=95)
    flat, turned = (
        np.asarray(image_files.read(tmp_path / f"{name}{suffix}")) for name in ("flat", "a")
    )
    np.testing.assert_array_equal(turned, np.rot90(flat, -1))
    assert image_files.read(tmp_path / f"a{suffix}", (14, 20)).size == (14, 20)


def test_the_content_counts_whatever_the_name_says(tmp_path):
    picture(3).save(tmp_path / "a.bmp")
    (tmp_path / "a.bmp").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(
        np.asarray(image_files.read(tmp_path / "a.jpg")), np.asarray(picture(3))
    )


def test_the_previews_in_a_cameras_file_do_not_count(tmp_path):
    picture(3).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture(4)])
    picture(3).save(tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as opened:
        assert (opened.format, opened.n_frames) == ("MPO", 2)
    one, other = (np.asarray(image_files.read(tmp_path / name)) for name in ("a.jpg", "b.jpg"))
    np.testing.assert_array_equal(one, other)


def animated(file):
    picture(1).save(file, save_all=True, append_images=[picture(2), picture(3)])


BAD = [
    ("a.png", b"", "it is empty"),
    ("a.jpg", b"\n\n<!DOCTYPE html><html>", "a web page"),
    ("a.png", b"no image", "none of BMP, GIF, JPEG, PNG, TIFF, WEBP"),
    ("a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n", "none of BMP"),
    ("a.png", b"\x89PNG\r\n broken", "cannot be read as an image"),
    ("a.png", lambda f: picture().save(f), "cannot be read as an image"),
    ("a.jpg", lambda f: picture().save(f), "cannot be read as an image"),
    ("a.tif", lambda f: picture().save(f), "cannot be read as an image"),
    ("a.webp", lambda f: picture().save(f), "cannot be read as an image"),
    ("a.bmp", lambda f: picture().save(f), "cannot be read as an image"),
]


@pytest.mark.parametrize(("name", "content", "told"), BAD)
def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path, capfd, name, content, told):
    file = tmp_path / name
    if callable(content):
        content(file)
        content = file.read_bytes()[: file.stat().st_size // 2]
    file.write_bytes(content)
    with pytest.raises(PipelineError, match=told) as caught:
        image_files.read(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def whole(file):
    Image.new("I", (20, 14)).save(file)


def floats(file):
    Image.new("F", (20, 14)).save(file)


def lab(file):
    Image.new("LAB", (20, 14)).save(file)


def of_size(*size):
    return lambda file: picture(size=size).save(file)


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        ("a.png", animated, "3 pictures in one file"),
        ("a.webp", animated, "3 pictures in one file"),
        ("a.tif", animated, "3 pictures in one file"),
        ("a.tif", floats, "8 or 16 bits .*mode F"),
        ("a.tif", whole, "8 or 16 bits .*mode I"),
        ("a.tif", lab, "mode LAB"),
        ("a.png", of_size(14, 21), "14x21 pixels, .* are 20x14; resize"),
        ("a.png", of_size(14, 20), "14x20 pixels, .* are 20x14; resize"),
        ("a.png", of_size(1, 1), "1x1 pixels"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path, name, make, told):
    make(tmp_path / name)
    with pytest.raises(PipelineError, match=rf"{name}: .*{told}") as caught:
        image_files.read(tmp_path / name, (20, 14))
    assert "\n" not in str(caught.value)


# --- backgrounds, depths and frames --------------------------------------------------------------

RED = (255, 0, 0)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_what_is_transparent_is_put_on_the_background(tmp_path, suffix):
    image = Image.new("RGBA", (20, 14), (0, 0, 255, 255))
    image.paste((0, 255, 0, 0), (0, 0, 5, 14))
    image.paste((0, 0, 255, 128), (5, 0, 10, 14))
    image.save(tmp_path / f"a{suffix}", lossless=True, exact=True)
    read = np.asarray(image_files.read(tmp_path / f"a{suffix}", background=RED))
    assert read[0, 2].tolist() == [255, 0, 0]
    np.testing.assert_allclose(read[0, 7], [127, 0, 128], atol=1)
    assert read[0, 15].tolist() == [0, 0, 255]
    assert image_files.first(tmp_path / f"a{suffix}").clear
    assert np.asarray(image_files.read(tmp_path / f"a{suffix}"))[0, 2].tolist() == [255] * 3


def test_palettes_and_grey_images_have_transparency_too(tmp_path):
    image = Image.new("P", (20, 14), 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    image.paste(0, (0, 0, 5, 14))
    image.save(tmp_path / "p.png", transparency=0)
    image.save(tmp_path / "p.gif", transparency=0)
    grey = Image.new("LA", (20, 14), (70, 255))
    grey.paste((9, 0), (0, 0, 5, 14))
    grey.save(tmp_path / "la.png")
    for name, level in (("p.png", [50, 60, 70]), ("p.gif", [50, 60, 70]), ("la.png", [70] * 3)):
        read = np.asarray(image_files.read(tmp_path / name, background=RED))
        assert read[0, 2].tolist() == [255, 0, 0], name
        assert read[0, 15].tolist() == level, name


def nearest(values):
    return np.rint(values / 257).astype(np.uint8)


DEEP = np.random.default_rng(3).integers(0, 2**16, (14, 20, 4)).astype(np.uint16)
DEEP[0, 0], DEEP[0, 1] = 0, 65535


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (6, 4), (4, 2)])
def test_16_bits_become_the_nearest_of_8(tmp_path, colour, channels):
    values = DEEP[:, :, :channels].copy()
    if channels in (2, 4):
        values[:, :, -1] = 65535
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    (tmp_path / "a.png").write_bytes(png(20, 14, depth=16, colour=colour, data=rows))
    read = np.asarray(image_files.read(tmp_path / "a.png"))
    wanted = nearest(values[:, :, :3] if channels > 2 else values[:, :, :1].repeat(3, axis=2))
    # Of grey images with alpha Pillow has no second byte, so that they are rounded down.
    np.testing.assert_allclose(read, wanted, atol=1 if channels == 2 else 0)
    assert read[0, 0].tolist() == [0] * 3 and read[0, 1].tolist() == [255] * 3


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_16_bits_of_grey_are_turned_too(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEEP[:, :, 0]).save(tmp_path / f"a{suffix}", exif=exif)
    found = image_files.first(tmp_path / f"a{suffix}")
    wanted = np.rot90(nearest(DEEP[:, :, 0]), -1)
    np.testing.assert_array_equal(np.asarray(found.image)[:, :, 0], wanted)
    assert found.size == (14, 20)


def test_one_value_of_16_bits_may_be_transparent(tmp_path):
    values = np.full((14, 20), 30000, np.uint16)
    values[:, :5] = 20000
    values[:, 5:9] = 20001  # the same in 8 bits
    Image.fromarray(values).save(tmp_path / "a.png", transparency=20000)
    read = np.asarray(image_files.read(tmp_path / "a.png", background=RED))
    assert read[0, 2].tolist() == [255, 0, 0]
    assert read[0, 7].tolist() == [78] * 3


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".gif"])
def test_the_first_of_several_pictures_counts_where_that_is_allowed(tmp_path, suffix):
    image = picture(1, mode="P" if suffix == ".gif" else "RGB")
    image.save(tmp_path / f"a{suffix}", save_all=True, append_images=[picture(2)], lossless=True)
    found = image_files.first(tmp_path / f"a{suffix}")
    assert found.frames == 2
    np.testing.assert_array_equal(np.asarray(found.image), np.asarray(image.convert("RGB")))


def test_large_jpegs_are_decoded_at_a_fraction(tmp_path):
    board = Image.fromarray((np.indices((400, 600)).sum(axis=0) % 2 * 255).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    board.save(tmp_path / "a.jpg", quality=100, exif=exif)
    found = image_files.first(tmp_path / "a.jpg", side=32)
    assert found.size == (400, 600)
    assert found.image.size == (67, 100) or found.image.size == (100, 150)
    assert 100 < np.asarray(found.image).mean() < 155
    assert image_files.first(tmp_path / "a.jpg", side=250).image.size == (400, 600)
    assert image_files.read(tmp_path / "a.jpg").size == (400, 600)


@pytest.mark.parametrize(
    ("name", "levels"), [("white", (255,) * 3), ("#ff8800", (255, 136, 0)), ("Red", (255, 0, 0))]
)
def test_colours_have_names_or_numbers(name, levels):
    assert image_files.colour(name, "x") == levels


@pytest.mark.parametrize("name", ["", "blau", "#12", "rgb(", "\0"])
def test_other_colours_are_refused(name):
    with pytest.raises(PipelineError, match=r"data\.background = .*name of CSS"):
        image_files.colour(name, "data.background")


# --- what is broken ------------------------------------------------------------------------------


def test_too_many_pixels_are_refused_by_the_header(tmp_path):
    file = tmp_path / "a.png"
    file.write_bytes(png(20_000, 20_000))
    before = Image.MAX_IMAGE_PIXELS
    with (
        warnings.catch_warnings(),
        pytest.raises(PipelineError, match="400,000,000 pixels, more than the 100,000,000"),
    ):
        warnings.simplefilter("error")
        image_files.read(file)
    assert before == Image.MAX_IMAGE_PIXELS


def test_just_less_is_read_without_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 280)
    picture().save(tmp_path / "a.png")
    picture(size=(20, 15)).save(tmp_path / "b.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert image_files.read(tmp_path / "a.png").size == (20, 14)
        with pytest.raises(PipelineError, match="300 pixels, more than the 280"):
            image_files.read(tmp_path / "b.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".bmp", ".gif"])
def test_whatever_is_broken_is_one_line(tmp_path, suffix, capfd):
    """Bytes are changed, cut and repeated at random."""
    good, file, rng = tmp_path / f"good{suffix}", tmp_path / f"bad{suffix}", random.Random(1)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(5).save(good, **({} if suffix in (".bmp", ".gif") else {"exif": exif}))
    original = good.read_bytes()
    refused = 0
    for _ in range(150):
        content = bytearray(original)
        for _ in range(rng.choice([1, 1, 3, 20])):
            content[rng.randrange(min(len(content), rng.choice([64, 10**6])))] = rng.randrange(256)
        if rng.random() < 0.2:
            content = content[: rng.randrange(len(content))]
        file.write_bytes(content)
        try:
            assert image_files.read(file).mode == "RGB"
        except PipelineError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10
    assert capfd.readouterr() == ("", "")
