import numpy as np
from builders import SMALL, some_images

from pipeline.evaluation import nearest_picture, protocol


def test_likely_copies_stand_above_what_they_resemble():
    training = some_images(40, seed=1).numpy()
    samples = some_images(20, seed=2).numpy()
    samples[7] = training[31]
    samples[3] = np.clip(training[5].astype(int) + 3, 0, 255)
    found = nearest_picture.picture(samples, training)
    assert found.shape == (2, nearest_picture.COLUMNS, *SMALL.shape)
    np.testing.assert_array_equal(found[:, 0], [samples[7], training[31]])
    np.testing.assert_array_equal(found[:, 1], [samples[3], training[5]])


def test_of_very_many_samples_the_first_are_looked_at(monkeypatch):
    training = some_images(40, seed=1).numpy()
    samples = np.concatenate([some_images(20, seed=2).numpy(), training[:10]])
    monkeypatch.setattr(protocol, "MOST_SUSPECTS", 20)
    found = nearest_picture.picture(samples, training)
    np.testing.assert_array_equal(found, nearest_picture.picture(samples[:20], training))


def test_fewer_samples_than_columns_are_all_shown():
    found = nearest_picture.picture(some_images(3).numpy(), some_images(40, seed=1).numpy())
    assert found.shape == (2, 3, *SMALL.shape)
