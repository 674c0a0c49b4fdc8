import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from pipeline.core.errors import PipelineError
from pipeline.datasets.store import Split, Store, write
from pipeline.evaluation import reference
from pipeline.evaluation.classifier import Classifier
from pipeline.evaluation.judge import Judge, Judges
from pipeline.evaluation.reference import KEYS, SMOOTHING

N = 200


def blobs(n, seed, size=8, channels=1):
    """Smooth bright spots at random places on black, uint8 [n, C, size, size]."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(2, size - 3, (n, 2, 1, 1))
    y, x = np.mgrid[:size, :size]
    distance = (y - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2
    images = 255 * np.exp(-distance / rng.uniform(2, 5, (n, 1, 1)))
    return np.repeat(images[:, None], channels, axis=1).round().astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def one_thread_of_algebra():
    """As stages have: more would wait for each other."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "processed"
    sizes = {"train": 500, "val": 50, "test": N}
    parts = {
        name: Split(blobs(n, seed), np.arange(n) % 3)
        for seed, (name, n) in enumerate(sizes.items())
    }
    write(folder, "blobs", ["a", "b", "c"], parts)
    return Store(folder)


@pytest.fixture(scope="module")
def judges(store):
    """Untrained: random features tell blobs from noise as well."""
    torch.set_num_threads(1)
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(Judge(Classifier(store.spec, 16).eval(), 1.0, torch.device("cpu")))
    return Judges(found)


def table(store, judges, **changes):
    options = {"n": N, "split": "test", "seed": 0} | changes
    return {row["name"]: row for row in reference.rows(store, judges, **options)}


@pytest.fixture(scope="module")
def rows(store, judges):
    return table(store, judges)


def test_every_row_has_every_key(rows):
    assert list(rows) == [
        "real",
        "without_class",
        "blurred",
        "noisy_5",
        "noisy_10",
        "noisy_20",
        "histogram",
        "mean",
        "noise",
        "png",
        "xz",
        "bzip2",
        "pca_32",
        "pca_64",
    ]
    for row in rows.values():
        assert set(row) == {"name", "label", *KEYS}


def test_what_does_not_apply_is_none(rows):
    measured = {
        name: {key for key in ("fid", "bits_per_dim", "reconstruction_mse") if row[key] is not None}
        for name, row in rows.items()
    }
    assert measured == {
        "real": {"fid"},
        "without_class": {"fid"},
        "blurred": {"fid"},
        "noisy_5": {"fid"},
        "noisy_10": {"fid"},
        "noisy_20": {"fid"},
        "histogram": {"fid", "bits_per_dim"},
        "mean": {"fid", "reconstruction_mse"},
        "noise": {"fid", "bits_per_dim"},
        "png": {"bits_per_dim"},
        "xz": {"bits_per_dim"},
        "bzip2": {"bits_per_dim"},
        "pca_32": {"reconstruction_mse"},
        "pca_64": {"reconstruction_mse"},
    }


def test_fids_are_in_the_order_of_how_real_the_images_are(rows):
    assert 0 < rows["real"]["fid"] < rows["histogram"]["fid"] < rows["noise"]["fid"]
    assert rows["real"]["fid"] < rows["mean"]["fid"]
    for name in ("real", "histogram", "mean", "noise"):
        row = rows[name]
        assert row["fid_min"] <= row["fid"] <= row["fid_max"]


def test_noise_has_exactly_8_bits_per_dim(rows):
    assert rows["noise"]["bits_per_dim"] == 8.0
    assert rows["noise"]["bits_per_dim_stderr"] == 0.0
    assert rows["noise"]["nats_per_image"] == pytest.approx(64 * 8 * math.log(2), rel=1e-15)


def test_noise_is_uniform():
    levels = reference.uniform(1000, (3, 5, 7), seed=0)
    assert levels.shape == (1000, 3, 5, 7)
    counts = np.bincount(levels.ravel(), minlength=256)
    assert abs(counts - levels.size / 256).max() < 6 * math.sqrt(levels.size / 256)
    assert not np.array_equal(levels, reference.uniform(1000, (3, 5, 7), seed=1))


def test_rows_repeat_exactly_and_follow_the_seed(store, judges, rows):
    assert table(store, judges) == rows
    other = table(store, judges, seed=1)
    assert other["real"]["fid"] != rows["real"]["fid"]
    assert other["histogram"]["fid"] != rows["histogram"]["fid"]
    assert other["noise"]["fid"] != rows["noise"]["fid"]
    assert other["pca_32"] == rows["pca_32"]


def test_the_split_is_the_one_that_was_asked_for(store, judges, rows):
    val = table(store, judges, n=50, split="val")
    for name, key in (("histogram", "bits_per_dim"), ("pca_32", "reconstruction_mse")):
        assert val[name][key] != rows[name][key]


def test_too_many_images_are_refused(store, judges):
    with pytest.raises(PipelineError, match=r"sample\.n = 201"):
        table(store, judges, n=201)


def test_chunks_change_nothing(store, judges, rows, monkeypatch):
    monkeypatch.setattr(reference, "CHUNK", 37)
    for name, row in table(store, judges).items():
        measured = {key: value for key, value in row.items() if isinstance(value, float)}
        expected = {key: rows[name][key] for key in measured}
        assert measured == pytest.approx(expected, rel=1e-9), name


# --- damaged real images ----------------------------------------------------------------------


def test_damage_is_worse_than_none_and_more_of_it_is_worse_still(rows):
    fids = [rows[name]["fid"] for name in ("real", "noisy_5", "noisy_10", "noisy_20", "noise")]
    assert fids == sorted(fids)
    assert rows["blurred"]["fid"] > rows["real"]["fid"]


def test_one_class_is_missing_and_the_others_fill_its_place(store):
    split = Split(blobs(60, 0), np.array([0] * 10 + [1] * 30 + [2] * 20))
    images, missing = reference.without_class(split, 25, seed=0)
    assert (len(images), missing) == (25, 1)
    others = {image.tobytes() for image in split.images[split.labels != 1]}
    assert {image.tobytes() for image in images} <= others
    assert len({image.tobytes() for image in images}) == 25
    assert reference.without_class(split, 31, seed=0) == (None, 1)


def test_noise_has_the_deviation_that_its_name_says():
    grey = np.full((200, 1, 8, 8), 128, np.uint8)
    found = reference.noisy(grey, 0.1, seed=0)
    assert found.dtype == np.uint8
    assert (found / 255.0).std() == pytest.approx(0.1, rel=0.02)
    assert found.mean() == pytest.approx(128, abs=1)
    assert reference.noisy(grey * 0, 0.1, seed=0).min() == 0


def test_blur_is_that_of_its_weights():
    point = np.zeros((1, 1, 9, 9), np.uint8)
    point[0, 0, 4, 4] = 255
    weights = np.outer(reference.BLUR, reference.BLUR) / 256
    np.testing.assert_allclose(
        reference.blurred(point)[0, 0, 2:7, 2:7], (255 * weights).round(), atol=0.5
    )
    flat = np.full((2, 3, 5, 7), 255, np.uint8)
    np.testing.assert_array_equal(reference.blurred(flat), flat)


def test_compressors_count_whole_images():
    levels = reference.uniform(50, (1, 8, 8), seed=0)
    sizes = reference.compressed_bytes(levels)
    assert set(sizes) == {"xz", "bzip2"}
    for size in sizes.values():
        assert levels.size <= size < 1.2 * levels.size + 200
    assert max(reference.compressed_bytes(levels * 0).values()) < 100


# --- histogram --------------------------------------------------------------------------------


def by_hand(train, test, added):
    """Negative log-likelihoods, one image and pixel at a time."""
    nats = []
    for image in test.reshape(len(test), -1):
        total = 0.0
        for pixel, level in enumerate(image):
            count = sum(int(each.ravel()[pixel] == level) for each in train)
            total -= math.log((count + added) / (len(train) + 256 * added))
        nats.append(total)
    return np.array(nats)


def leave_one_out(train, added):
    return sum(
        by_hand(np.delete(train, i, axis=0), train[i : i + 1], added)[0] for i in range(len(train))
    )


def small(n, seed):
    return np.random.default_rng(seed).binomial(4, 0.3, (n, 2, 2, 3)).astype(np.uint8) * 60


def test_counts():
    train = small(9, 0)
    counts = reference.histogram(train)
    assert counts.shape == (12, 256)
    assert (counts.sum(axis=1) == 9).all()
    assert counts[5, 60] == (train.reshape(9, 12)[:, 5] == 60).sum()


def test_likelihood_against_brute_force():
    train, test = small(9, 0), small(5, 1)
    test[0, 0, 0, 0] = 255  # never seen in training
    counts = reference.histogram(train)
    expected = by_hand(train, test, reference.smoothing(counts))
    np.testing.assert_allclose(reference.histogram_nats(test, counts), expected, rtol=1e-12)


def test_smoothing_is_the_best_by_leave_one_out():
    train = small(9, 0)
    best = min(SMOOTHING, key=lambda added: leave_one_out(train, added))
    assert SMOOTHING[0] < best < SMOOTHING[-1], "the data must decide, not the end of the list"
    assert reference.smoothing(reference.histogram(train)) == best


def test_probabilities_sum_to_one():
    counts = reference.histogram(small(9, 0)[:, :1, :1, :1])
    every = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)
    assert np.exp(-reference.histogram_nats(every, counts)).sum() == pytest.approx(1, rel=1e-12)


def test_bits_per_dim_of_the_row(store, rows):
    train, test = (np.array(store.split(name).images) for name in ("train", "test"))
    nats = reference.histogram_nats(test, reference.histogram(train))
    assert rows["histogram"]["bits_per_dim"] == pytest.approx(nats.mean() / 64 / math.log(2))
    stderr = nats.std(ddof=1) / math.sqrt(N) / 64 / math.log(2)
    assert rows["histogram"]["bits_per_dim_stderr"] == pytest.approx(stderr)
    assert rows["histogram"]["likelihood_bound"] == "exact"


def test_samples_follow_each_pixel_and_nothing_between_them():
    train = small(40, 0)
    counts = reference.histogram(train)
    drawn = reference.sample_histogram(counts, 20000, (2, 2, 3), seed=0)
    assert drawn.shape == (20000, 2, 2, 3)
    error = reference.histogram(drawn) / 20000 - counts / 40
    assert abs(error).max() < 6 * math.sqrt(0.25 / 20000)
    correlation = np.corrcoef(drawn.reshape(20000, -1).T) - np.eye(12)
    assert abs(correlation).max() < 6 / math.sqrt(20000)


# --- mean, PNG and PCA ------------------------------------------------------------------------


def test_mean(store, rows):
    train, test = (store.split(name).images.astype(float) for name in ("train", "test"))
    average = train.mean(axis=0)
    counts = reference.histogram(store.split("train").images)
    np.testing.assert_allclose(reference.mean(counts, (1, 8, 8)), average, rtol=1e-12)
    errors = ((test - average.round()) ** 2).mean(axis=(1, 2, 3)) / 255**2
    assert rows["mean"]["reconstruction_mse"] == pytest.approx(errors.mean())
    assert rows["mean"]["reconstruction_psnr"] == pytest.approx((-10 * np.log10(errors)).mean())


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_the_size_of_a_file_that_holds_all_images(channels, monkeypatch):
    images = blobs(10, 0, channels=channels)
    images[:, 0] //= 2
    files = []
    original = Image.Image.save

    def save(self, file, **options):
        original(self, file, **options)
        files.append(file.getvalue())

    monkeypatch.setattr(Image.Image, "save", save)
    assert reference.png_bytes(images) == len(files[0])
    with Image.open(io.BytesIO(files[0])) as read:
        pixels = np.asarray(read).reshape(10, 8, 8, channels)
    np.testing.assert_array_equal(pixels.transpose(0, 3, 1, 2), images)


def test_png_bits(store, rows):
    size = reference.png_bytes(store.split("test").images)
    assert rows["png"]["bits_per_dim"] == pytest.approx(size * 8 / (N * 64))
    assert rows["png"]["likelihood_bound"] == "code length"
    assert rows["png"]["bits_per_dim_stderr"] is None


@pytest.mark.parametrize("k", [32, 64])
def test_pca_against_scikit_learn(store, rows, k):
    train, test = (store.split(name).images.reshape(-1, 64) for name in ("train", "test"))
    pca = PCA(n_components=k, svd_solver="full").fit(train)
    rebuilt = pca.inverse_transform(pca.transform(test)).round().clip(0, 255)
    errors = ((test - rebuilt) ** 2).mean(axis=1) / 255**2
    row = rows[f"pca_{k}"]
    assert row["reconstruction_mse"] == pytest.approx(errors.mean(), rel=1e-6, abs=1e-9)
    assert row["reconstruction_kind"] == f"{k} principal components"


def test_pca_outputs_are_clipped_levels():
    images = np.array([[0, 255], [255, 0], [0, 0]], np.uint8).reshape(3, 1, 1, 2)
    far = np.full((1, 1, 2), 127.5), np.array([[10.0], [10.0]])
    assert reference.project(images, *far).dtype == np.uint8
    assert set(reference.project(images, *far).ravel()) <= {0, 128, 255}


def coloured(n, seed, shape=(3, 13, 13)):
    """uint8 images [n, *shape] with the spectrum of photographs, and channels that go together."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    frequency[0, 0] = 1 / width
    noise = np.fft.fft2(rng.standard_normal((n, 1, height, width))) / frequency
    own = np.fft.fft2(rng.standard_normal((n, channels, height, width))) / frequency
    values = np.fft.ifft2(noise + own / 3).real
    return (128 + 45 * values / values.std()).round().clip(0, 255).astype(np.uint8)


def every_way(images, monkeypatch):
    """The first 64 principal components by each of the three ways, [D, 64] by name."""
    average = images.mean(axis=0)
    found = {"covariance": reference._of_covariance(images, average)[:, :64]}
    monkeypatch.setattr(reference, "SQUARE", len(images))
    found["products"] = reference.principal_components(images, average, 64)
    monkeypatch.setattr(reference, "SQUARE", 16)
    found["iteration"] = reference.principal_components(images, average, 64)
    return found


def captured(images, directions):
    """Share of the variance that lies along directions [D, k]."""
    centred = (images - images.mean(axis=0)).reshape(len(images), -1)
    return ((centred @ directions) ** 2).sum() / (centred**2).sum()


def test_each_way_to_principal_components_finds_the_same(monkeypatch):
    """400 images of 507 dimensions; chunks are small, so there are many."""
    monkeypatch.setattr(reference, "VALUES", 50_000)
    images = coloured(400, 0)
    found = every_way(images, monkeypatch)
    for directions in found.values():
        np.testing.assert_allclose(directions.T @ directions, np.eye(64), atol=1e-10)
    for k in (32, 64):
        wanted, products = (found[way][:, :k] for way in ("covariance", "products"))
        np.testing.assert_allclose(products @ products.T, wanted @ wanted.T, atol=1e-8)
        best = captured(images, found["covariance"][:, :k])
        assert 0.5 < best < 0.95
        assert captured(images, found["iteration"][:, :k]) == pytest.approx(best, rel=1e-9)
        rebuilt = [
            reference.project(images, images.mean(axis=0), each[:, :k]) for each in found.values()
        ]
        np.testing.assert_array_equal(rebuilt[1], rebuilt[0])
        assert (rebuilt[2] != rebuilt[0]).mean() < 1e-4


@pytest.mark.parametrize("distinct", [1, 3, 50])
def test_principal_components_of_images_that_span_little(monkeypatch, distinct):
    """Copies of few images: no way may fail, and all rebuild them."""
    images = np.resize(coloured(distinct, 1), (300, 3, 13, 13))
    for directions in every_way(images, monkeypatch).values():
        assert directions.shape == (507, 64)
        np.testing.assert_allclose(directions.T @ directions, np.eye(64), atol=1e-8)
        rebuilt = reference.project(images, images.mean(axis=0), directions)
        np.testing.assert_array_equal(rebuilt, images)


def test_more_components_rebuild_better(rows):
    errors = [rows[name]["reconstruction_mse"] for name in ("pca_64", "pca_32", "mean")]
    assert errors == sorted(errors)
    assert len(set(errors)) == 3


def test_no_more_components_than_the_images_span(tmp_path, judges):
    parts = {
        name: Split(blobs(n, n), np.arange(n) % 3)
        for name, n in (("train", 41), ("val", 10), ("test", 20))
    }
    write(tmp_path / "processed", "few", ["a", "b", "c"], parts)
    names = list(table(Store(tmp_path / "processed"), judges, n=20))
    assert names[-2:] == ["pca_32", "pca_40"]
