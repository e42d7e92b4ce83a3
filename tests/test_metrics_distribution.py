"""Gaussian Frechet distance against closed forms and scipy's matrix square root."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import sqrtm

from p2es_lib.core.errors import InputError
from p2es_lib.evaluation.metrics.distribution import frechet_table, gaussian_frechet_distance


def _covariance(rng, dim):
    root = rng.normal(size=(dim, dim))
    return root @ root.T / dim


def test_closed_forms():
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2; commuting covariances: the same per axis.
    assert gaussian_frechet_distance([1.0], [[4.0]], [3.0], [[25.0]]) == pytest.approx(4 + 9)
    value = gaussian_frechet_distance([0, 0], np.diag([1.0, 9.0]), [0, 2], np.diag([16.0, 4.0]))
    assert value == pytest.approx(4 + 9 + 1)
    # Singular: a point at the origin against a Gaussian is the second moment.
    assert gaussian_frechet_distance([0, 0], np.zeros((2, 2)), [1, 1], np.diag([2.0, 3.0])) == pytest.approx(7)


def test_against_sqrtm_and_metric_properties():
    rng = np.random.default_rng(0)
    means, covariances = rng.normal(size=(3, 8)), np.stack([_covariance(rng, 8) for _ in range(3)])
    a, b, c = zip(means, covariances)
    product_root = sqrtm(a[1] @ b[1]).real
    expected = ((a[0] - b[0]) ** 2).sum() + np.trace(a[1] + b[1] - 2 * product_root)
    assert gaussian_frechet_distance(*a, *b) == pytest.approx(expected, abs=1e-10)
    assert gaussian_frechet_distance(*b, *a) == pytest.approx(expected, abs=1e-10)
    assert gaussian_frechet_distance(*a, *a) == pytest.approx(0, abs=1e-10)
    ab, bc, ac = (np.sqrt(gaussian_frechet_distance(*p, *q)) for p, q in ((a, b), (b, c), (a, c)))
    assert ac <= ab + bc  # the square root is a distance
    batch = gaussian_frechet_distance(means[:2], covariances[:2], means[1:], covariances[1:])
    assert np.allclose(batch, [ab**2, bc**2])


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(1)
    ecg = np.cumsum(rng.normal(size=(40, 12, 320)), axis=-1) * 0.02
    lead_mask = np.full((40, 12), 2)
    lead_mask[:, 6:] = 0
    index = pd.DataFrame({"subject": np.repeat([f"s{i}" for i in range(20)], 2)})
    return SimpleNamespace(ecg=ecg, lead_mask=lead_mask, index=index)


def test_table_value_is_the_distance_of_the_pooled_segments(cohort):
    samples = cohort.ecg[:, None].repeat(2, axis=1) * np.array([1.5, 0.5])[None, :, None, None]
    table = frechet_table(samples, cohort, 125, segment_s=0.08, estimates=("single", "mean"), n_bootstrap=50)
    assert set(table["lead"]) == {"I", "II", "III", "aVR", "aVL", "aVF", "all"}  # absent leads are skipped
    rows = table.set_index(["estimate", "lead"])
    segments = cohort.ecg[:, 3].reshape(-1, 10)
    x, y = 1.5 * segments, segments
    expected = gaussian_frechet_distance(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    assert rows.loc[("single", "aVR"), "value"] == pytest.approx(expected)
    assert rows.loc[("single", "all"), "value"] == pytest.approx(rows.loc["single"].drop("all")["value"].mean())
    assert np.allclose(rows.loc["mean"]["value"], 0, atol=1e-9)
    single = rows.loc["single"]
    assert ((single["lower"] <= single["value"]) & (single["value"] <= single["upper"])).all()
    assert (single["n_subjects"] == 20).all()
    again = frechet_table(samples, cohort, 125, segment_s=0.08, estimates=("single", "mean"), n_bootstrap=50)
    pd.testing.assert_frame_equal(table, again)


def test_table_where_nothing_can_be_said(cohort):
    few = frechet_table(cohort.ecg[:, None], cohort, 125, segment_s=1.28, n_bootstrap=20)  # 80 segments of 160 samples
    assert few["value"].isna().all() and few["lower"].isna().all()
    one = SimpleNamespace(ecg=cohort.ecg, lead_mask=cohort.lead_mask, index=pd.DataFrame({"subject": ["s"] * 40}))
    table = frechet_table(1.1 * cohort.ecg[:, None], one, 125, segment_s=0.08, n_bootstrap=20)
    assert (table["value"] > 0).all() and table["lower"].isna().all()
    with pytest.raises(InputError, match="do not fit"):
        frechet_table(cohort.ecg, cohort, 125)
    with pytest.raises(InputError, match="segment_s"):
        frechet_table(cohort.ecg[:, None], cohort, 125, segment_s=5)
