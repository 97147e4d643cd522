"""The harm direction, the harmfulness subspace and the unit of steering strength."""

from __future__ import annotations

import numpy as np
import pytest

from skgate import LatentGate
from skgate.gate._subspace import harm_basis, harm_direction, projection_gap

LANGUAGES = ["de", "en", "fr", "nl"]


@pytest.fixture
def rows():
    """Rows of four languages, unequal in number, each with a harm direction of its own."""
    rng = np.random.default_rng(20)
    language = np.repeat(LANGUAGES, [30, 50, 26, 40])
    y = rng.permutation(np.tile([0, 1, 1], 49)[:146])
    own = {name: rng.normal(size=9) + 2 for name in LANGUAGES}
    X = rng.normal(size=(146, 9)) + 5 + y[:, None] * np.stack([own[name] for name in language])
    return X, y, language


def unit_difference(X, y):
    difference = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
    return difference / np.sqrt((difference**2).sum())


def test_the_direction_is_the_unit_difference_of_the_pooled_class_means(rows):
    X, y, language = rows
    gate = LatentGate().fit(X, y, language=language)
    np.testing.assert_allclose(gate.direction_, unit_difference(X, y), rtol=1e-10)
    assert np.linalg.norm(gate.direction_) == pytest.approx(1.0, abs=1e-14)


def test_the_direction_is_that_of_the_source_languages_alone(rows):
    X, y, language = rows
    gate = LatentGate(source_languages=["de", "en"]).fit(X, y, language=language)
    source = np.isin(language, ["de", "en"])
    np.testing.assert_allclose(gate.direction_, unit_difference(X[source], y[source]), rtol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_the_basis_holds_the_first_right_singular_vectors_of_the_stacked_units(rows, rank):
    X, y, language = rows
    gate = LatentGate(rank=rank).fit(X, y, language=language)
    units = np.stack([unit_difference(X[language == n], y[language == n]) for n in LANGUAGES])
    expected = np.linalg.svd(units)[2][:rank]  # not centred
    assert gate.basis_.shape == (9, rank)
    assert gate.rank_ == rank
    agreement = np.diag(expected @ gate.basis_)
    np.testing.assert_allclose(np.abs(agreement), 1.0, atol=1e-10)
    np.testing.assert_allclose(gate.basis_.T @ gate.basis_, np.eye(rank), atol=1e-12)


def test_every_coordinate_of_the_basis_points_towards_harm(rows):
    X, y, language = rows
    gate = LatentGate(rank=10).fit(X, y, language=language)
    assert (gate.direction_ @ gate.basis_ > 0).all()


def test_the_rank_is_cut_to_the_number_of_sources(rows):
    X, y, language = rows
    gate = LatentGate(rank=10).fit(X, y, language=language)
    assert gate.rank_ == 4
    assert gate.rank == 10


def test_the_rank_is_cut_to_the_width_of_the_activations(rows):
    X, y, language = rows
    assert LatentGate(rank=10).fit(X[:, :2], y, language=language).rank_ == 2


def test_languages_with_the_same_direction_count_once(rows):
    X, y, _ = rows
    language = np.repeat(["en", "de"], len(X))
    gate = LatentGate(rank=10).fit(np.vstack([X, X]), np.tile(y, 2), language=language)
    assert gate.rank_ == 1


@pytest.mark.parametrize("language", ["en", None])
def test_english_alone_makes_the_basis_the_direction(rows, language):
    X, y, _ = rows
    gate = LatentGate(rank=1).fit(X, y, language=language)
    assert gate.rank_ == 1
    np.testing.assert_allclose(gate.basis_[:, 0], gate.direction_, atol=1e-12)


def test_a_source_of_one_class_alone_adds_to_the_pool_but_not_to_the_basis(rows):
    X, y, language = rows
    kept = (language != "fr") | (y == 0)
    gate = LatentGate(rank=10).fit(X[kept], y[kept], language=language[kept])
    assert gate.rank_ == 3
    assert "fr" in gate.source_languages_
    np.testing.assert_allclose(gate.direction_, unit_difference(X[kept], y[kept]), rtol=1e-10)


def test_the_gap_is_between_the_upper_harmful_and_the_lower_harmless_quartile(rows):
    X, y, language = rows
    gate = LatentGate().fit(X, y, language=language)
    projections = X @ gate.direction_
    expected = np.quantile(projections[y == 1], 0.75) - np.quantile(projections[y == 0], 0.25)
    assert gate.projection_gap_ == pytest.approx(expected, rel=1e-12)


def test_the_gap_is_that_of_the_sources_alone(rows):
    X, y, language = rows
    gate = LatentGate(source_languages=["en"]).fit(X, y, language=language)
    english = language == "en"
    projections, harmful = X[english] @ gate.direction_, y[english] == 1
    expected = np.quantile(projections[harmful], 0.75) - np.quantile(projections[~harmful], 0.25)
    assert gate.projection_gap_ == pytest.approx(expected, rel=1e-12)


def test_a_weighted_gap_is_that_of_the_repeated_rows():
    rng = np.random.default_rng(21)
    projections, harmful = rng.normal(size=60), rng.random(60) < 0.5
    weight = rng.integers(1, 5, size=60).astype(float)
    times = weight.astype(int)
    repeated, labels = np.repeat(projections, times), np.repeat(harmful, times)
    expected = np.quantile(repeated[labels], 0.75) - np.quantile(repeated[~labels], 0.25)
    assert projection_gap(projections, harmful, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [1e-6, 0.5 / 60, 1 / 60, 1.0])
def test_equal_weights_of_any_size_do_not_change_the_gap(weight):
    rng = np.random.default_rng(23)
    projections, harmful = rng.normal(size=60), rng.random(60) < 0.5
    expected = np.quantile(projections[harmful], 0.75) - np.quantile(projections[~harmful], 0.25)
    gap = projection_gap(projections, harmful, np.full(60, weight))
    assert gap == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("weight", [0.3, 1.0, 2.0])
def test_a_weight_that_hardly_differs_hardly_changes_the_gap(weight):
    rng = np.random.default_rng(22)
    projections, harmful = rng.normal(size=60), rng.random(60) < 0.5
    equal = projection_gap(projections, harmful, np.full(60, weight))
    for row in range(60):
        nearly = np.full(60, weight)
        nearly[row] += 1e-9
        assert projection_gap(projections, harmful, nearly) == pytest.approx(equal, abs=1e-7)


def test_weights_of_the_direction_count_as_repeated_rows(rows):
    X, y, _ = rows
    times = np.random.default_rng(22).integers(1, 4, size=len(X))
    weighted = harm_direction(X, y == 1, times.astype(float))
    expected = unit_difference(np.repeat(X, times, axis=0), np.repeat(y, times))
    np.testing.assert_allclose(weighted, expected, rtol=1e-10)


@pytest.mark.parametrize("label", [0, 1])
def test_there_is_no_direction_without_both_classes(rows, label):
    X, y, _ = rows
    one = y == label
    assert harm_direction(X[one], y[one] == 1, np.ones(one.sum())) is None


def test_the_basis_ignores_rounding_in_dependent_directions():
    first, second = np.eye(5)[0], np.eye(5)[1]
    between = (first + second) / np.sqrt(2)
    basis = harm_basis(np.stack([first, second, between, between + 1e-17]), 4, between)
    assert basis.shape == (5, 2)


def test_a_direction_from_language_to_language_is_warned_of(rows):
    X, y, language = rows
    apart = X + 25 * (language == "en")[:, None] * np.eye(9)[0]
    kept = ((language != "en") | (y == 1)) | (np.arange(len(y)) % 5 == 0)
    with pytest.warns(UserWarning, match=r"share of harmful rows differs .* \(cosine .*: 0\.\d\d"):
        LatentGate().fit(apart[kept], y[kept], language=language[kept])
    weight = np.ones(kept.sum())
    english = language[kept] == "en"
    for label in (0, 1):
        weight[english & (y[kept] == label)] /= (english & (y[kept] == label)).sum()
        weight[~english & (y[kept] == label)] /= (~english & (y[kept] == label)).sum()
    LatentGate().fit(apart[kept], y[kept], language=language[kept], sample_weight=40 * weight)
