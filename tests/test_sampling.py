"""Noise over the data: standard errors, signs on held-out batches, sample numbers."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

import hessian_probe as hp
from hessian_probe.operators.per_batch import charge_share, rayleigh_quotients, select_batches
from hessian_probe.points.reviews.sampling.noise import held_out, split_halves, steps_for_halves
from hessian_probe.points.reviews.sampling.review import (
    rounded_up,
    times_between,
    times_for_place,
    times_the_data,
)
from hessian_probe.points.thresholds import LEAST_ERRORS, POWER, SAMPLING_HVPS
from hessian_probe.spectrum.standard_errors import weighted_mean

FLOAT = np.dtype(jnp.zeros(()).dtype)
TOL = 1e-9 if np.float64 == FLOAT else 2e-4

# What a classification of batches says where its budget does not suffice.
SHORT = {
    "budget_too_small",
    "not_settled",
    "no_products_for_batches",
    "few_products_for_batches",
    "few_products_for_shift",
}


def quadratic(w, batch):
    """Mean of ½ wᵀA w + bᵀw over the samples (A, b) of a batch."""
    matrices, slopes = batch
    w = w.astype(matrices.dtype)
    return jnp.mean(0.5 * jnp.einsum("i,bij,j->b", w, matrices, w) + slopes @ w)


def samples(rng, matrix, count, noise, slope=None, slope_noise=0.0):
    """Symmetric matrices and slopes that scatter about a known mean."""
    n = len(matrix)
    scatter = noise * rng.standard_normal((count, n, n))
    matrices = np.asarray(matrix) + (scatter + scatter.transpose(0, 2, 1)) / 2
    slopes = slope_noise * rng.standard_normal((count, n)) + (0.0 if slope is None else np.asarray(slope))
    return matrices.astype(FLOAT), slopes.astype(FLOAT)


def cut(arrays, sizes):
    """Batches of the given sizes."""
    edges = np.cumsum([0, *sizes])
    return [tuple(a[i:j] for a in arrays) for i, j in itertools.pairwise(edges)]


def point(n, at=0.0):
    return jnp.full(n, at, FLOAT)


def saddle_matrix(n, low=-1.0):
    return np.diag(np.r_[low, np.linspace(0.5, 2.0, n - 1)])


# ---------------------------------------------------------------- the estimator


def test_equal_batches_give_the_textbook_error():
    values = np.array([1.0, 3.0, 2.0, 6.0, 4.0])
    found = weighted_mean(values, np.full(5, 0.2))
    assert found.value == pytest.approx(np.mean(values))
    assert found.error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))
    assert found.freedom == pytest.approx(4)


def test_ragged_batches_of_independent_samples_give_an_unbiased_variance():
    """The oracle is the known variance of the mean of all samples."""
    rng = np.random.default_rng(0)
    sizes = np.array([32, 32, 32, 32, 7, 1])
    weights = sizes / sizes.sum()
    draws = [weighted_mean(rng.standard_normal(6) / np.sqrt(sizes), weights) for _ in range(20_000)]
    assert np.mean([d.error**2 for d in draws]) * sizes.sum() == pytest.approx(1.0, abs=0.02)


def test_the_error_agrees_with_a_jackknife():
    rng = np.random.default_rng(1)
    sizes = rng.integers(20, 30, 40)
    values = rng.standard_normal(40) + 3
    total, mass = values @ sizes, sizes.sum()
    left_out = (total - values * sizes) / (mass - sizes)
    jackknife = math.sqrt(39 / 40 * np.sum((left_out - left_out.mean()) ** 2))
    assert weighted_mean(values, sizes / mass).error == pytest.approx(jackknife, rel=0.03)


@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.integers(1, 50)), min_size=2, max_size=12), st.randoms())
def test_the_order_of_batches_is_nothing(rows, random):
    shuffled = rows[:]
    random.shuffle(shuffled)
    one, two = (
        weighted_mean(np.array([v for v, _ in r]), np.array([m for _, m in r]) / sum(m for _, m in r))
        for r in (rows, shuffled)
    )
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9)


@given(st.floats(1e-200, 1e200), st.floats(-5, 5))
def test_units_scale_the_error_and_nothing_else(unit, shift):
    values = np.array([1.0, 2.0, 4.0, 3.0])
    plain, scaled = (weighted_mean(v, np.full(4, 0.25)) for v in (values, unit * (values + shift)))
    assert scaled.error == pytest.approx(unit * plain.error, rel=1e-9)
    assert scaled.freedom == plain.freedom


def test_a_single_batch_shows_no_scatter():
    assert weighted_mean(np.array([2.0]), np.array([1.0])).error == math.inf
    assert not weighted_mean(np.array([2.0]), np.array([1.0])).beyond(1.0, 0.9)


# ---------------------------------------------------------------- batch by batch


@pytest.mark.parametrize("stored", [None, 0])
@pytest.mark.parametrize("kind", ["list", "batches", "loader"])
def test_quotients_and_parts_are_those_of_the_matrices(stored, kind):
    rng = np.random.default_rng(2)
    sizes = [5, 3, 5, 2, 4]
    arrays = samples(rng, saddle_matrix(4), sum(sizes), 0.5)
    batches = cut(arrays, sizes)

    class Loader:
        def __iter__(self):
            return iter(batches)

    data = {"list": batches, "batches": hp.Batches(batches, sizes), "loader": Loader()}[kind]
    op = hp.hessian(quadratic, point(4), data, max_residual_bytes=stored, check=False)
    vector = rng.standard_normal(4)
    vector = (jnp.asarray(vector / np.linalg.norm(vector), FLOAT),)
    flat = np.asarray(vector[0], np.float64)
    weights, values = rayleigh_quotients(op, [vector])
    np.testing.assert_allclose(weights, np.array(sizes) / 19, rtol=1e-12)
    means = [flat @ b[0].astype(np.float64).mean(0) @ flat for b in batches]
    np.testing.assert_allclose(values[:, 0], means, rtol=1e-5, atol=1e-5)
    assert op.num_hvps == 1
    halves = [select_batches(op, start, 2) for start in (0, 1)]
    for half, start in zip(halves, (0, 1), strict=True):
        matrix = np.concatenate([b[0] for b in batches[start::2]]).astype(np.float64).mean(0)
        np.testing.assert_allclose(half.apply(vector)[0], matrix @ flat, rtol=1e-4, atol=1e-5)
    charge_share(op, halves)
    assert op.num_hvps == 2  # 3/5 and 2/5 of a product


def test_eigsh_gives_standard_errors():
    rng = np.random.default_rng(3)
    sizes = [8] * 6 + [3]
    arrays = samples(rng, saddle_matrix(5), sum(sizes), 0.3)
    op = hp.hessian(quadratic, point(5), cut(arrays, sizes))
    found = hp.eigsh(op, lowest=2, highest=1, standard_errors=True)
    vectors = np.asarray(found.eigenvectors, np.float64)
    weights = np.array(sizes) / sum(sizes)
    for value, vector, error in zip(found.eigenvalues, vectors, found.standard_errors, strict=True):
        means = np.array([vector @ b[0].astype(np.float64).mean(0) @ vector for b in cut(arrays, sizes)])
        variance = np.sum(weights**2 * (means - value) ** 2) / (1 - np.sum(weights**2))
        assert error == pytest.approx(math.sqrt(variance), rel=1e-3)
    assert "over the data" in repr(found)
    assert found.num_hvps == op.num_hvps
    assert hp.eigsh(op).standard_errors is None


def test_standard_errors_need_batches():
    op = hp.hessian(quadratic, point(3), samples(np.random.default_rng(0), np.eye(3), 8, 0.1))
    with pytest.raises(ValueError, match="at least two batches"):
        hp.eigsh(op, standard_errors=True)


# ---------------------------------------------------------------- held out


def test_held_out_quotients_are_not_fitted_to_their_batches():
    """All curvature is noise about 0.1: the sample's lowest eigenvalue is negative, held out it is not."""
    rng = np.random.default_rng(4)
    arrays = samples(rng, 0.1 * np.eye(20), 64, 1.0)
    op = hp.hessian(quadratic, point(20), cut(arrays, [4] * 16), check=False)
    sample = float(np.linalg.eigvalsh(arrays[0].astype(np.float64).mean(0))[0])
    assert sample < -0.2
    low, high = held_out(op, 20, rng)
    assert low.both.value > -3 * low.both.error > sample
    assert abs(low.both.value - 0.1) < 4 * low.both.error
    assert abs(high.both.value - 0.1) < 4 * high.both.error


def test_halves_are_the_even_and_the_odd_batches():
    values, weights = np.array([1.0, 10.0, 3.0, 20.0, 2.0]), np.array([0.1, 0.2, 0.3, 0.2, 0.2])
    halves = split_halves(values, weights)
    assert halves.even.value == pytest.approx((0.1 * 1 + 0.3 * 3 + 0.2 * 2) / 0.6)
    assert halves.odd.value == pytest.approx(15)
    assert halves.both.value == pytest.approx(weights @ values)


# ---------------------------------------------------------------- the label


def test_a_clear_saddle_stays_one_and_carries_errors():
    rng = np.random.default_rng(5)
    arrays = samples(rng, saddle_matrix(12), 256, 1.0, slope_noise=0.01)
    found = hp.classify(quadratic, point(12), cut(arrays, [16] * 16))
    assert found.label == "saddle"
    assert not found.certified
    assert found.confidence == 0.99
    assert found.samples_needed is None
    assert found.lowest.standard_errors[0] == pytest.approx(1.0 / 16, rel=0.6)
    assert found.grad_norm_error == pytest.approx(0.01 * math.sqrt(12 / 256), rel=0.3)
    assert "over the data" in repr(found)
    assert found.num_hvps <= 80


def test_noise_is_not_a_saddle():
    """Without the re-check this minimum is called a saddle, since its sample's lowest curvature is −0.7."""
    rng = np.random.default_rng(6)
    batches = cut(samples(rng, 0.3 * np.eye(12), 64, 3.0), [4] * 16)
    found = hp.classify(quadratic, point(12), batches)
    assert found.label == "undetermined"
    assert found.reasons[0] == "held_out_curvature_noisy"
    assert hp.classify(quadratic, point(12), batches, sampled=False).label == "saddle"


@pytest.mark.parametrize("noisy", [0, 1])
def test_a_sign_that_one_half_of_the_batches_shows_is_not_enough(noisy):
    """The curvature is −1 on every other batch; on those between it scatters by 3 about −0.3."""
    rng = np.random.default_rng(5)
    curvature = np.empty((16, 4))
    curvature[1 - noisy :: 2] = rng.normal(-1.0, 0.05, (8, 4))
    curvature[noisy::2] = rng.normal(0.0, 0.05, (8, 4)) + np.tile([3.0, -3.6], 4)[:, None]
    matrices = np.zeros((64, 3, 3))
    matrices[:] = np.diag([0.0, 1.0, 2.0])
    matrices[:, 0, 0] = curvature.ravel()
    batches = cut((matrices.astype(FLOAT), np.zeros((64, 3), FLOAT)), [4] * 16)
    found = hp.classify(quadratic, point(3), batches)
    assert found.label == "undetermined"
    assert found.reasons[0] == "held_out_curvature_noisy"
    assert hp.classify(quadratic, point(3), batches, sampled=False).label == "saddle"


def test_the_number_of_samples_settles_it():
    rng = np.random.default_rng(7)
    matrix = saddle_matrix(6, low=-0.3)
    few = hp.classify(quadratic, point(6), cut(samples(rng, matrix, 64, 1.0), [4] * 16))
    assert few.label == "undetermined"
    needed = few.samples_needed
    assert needed is not None
    assert 64 < needed < 20_000
    assert "samples_needed" in few.reasons
    many = cut(samples(rng, matrix, needed, 1.0), [needed // 16] * 16)
    assert hp.classify(quadratic, point(6), many).label == "saddle"


@pytest.mark.parametrize("count", [4, 5, 8])
@pytest.mark.slow
def test_few_batches_ask_for_more_of_the_same_data_and_for_no_number_of_samples(count):
    settled = 0
    for seed in range(4):
        arrays = samples(np.random.default_rng(seed), saddle_matrix(4, low=-1.0), 320, 2.0)
        few = hp.classify(quadratic, point(4), cut(arrays, [320 // count] * count))
        if few.label == "undetermined":
            assert (few.samples_needed, few.samples_interval, few.batches_needed) == (None, None, 64)
            assert few.reasons.index("more_batches") < few.reasons.index("samples_unknown")
        settled += hp.classify(quadratic, point(4), cut(arrays, [5] * 64)).label == "saddle"
    assert settled == 4


def test_a_number_of_samples_comes_with_its_interval():
    arrays = samples(np.random.default_rng(7), saddle_matrix(6, low=-0.3), 64, 1.0)
    found = hp.classify(quadratic, point(6), cut(arrays, [4] * 16))
    low, high = found.samples_interval
    assert 64 <= low <= found.samples_needed <= high
    assert high > 2 * low
    assert found.batches_needed == 32  # of two samples each
    assert f"{low:,} to {high:,}" in repr(found)


def test_the_interval_of_the_number_of_samples_holds_as_often_as_stated():
    """Means of a known multiple of their error: the number that it needs lies within in eight of ten."""
    rng, level, freedom = np.random.default_rng(3), 0.99, 15.0
    for truth in (2.5, 4.0):
        threshold = scipy.stats.t.ppf(level, 7.0) + scipy.stats.norm.ppf(math.sqrt(POWER))
        needed, within = max(2.0 * (threshold / truth) ** 2, 1.0), 0
        for _ in range(400):
            mean, error = truth + rng.standard_normal(), math.sqrt(rng.chisquare(freedom) / freedom)
            ends = times_between(mean, mean, error, freedom, level)
            within += ends is not None and ends[0] <= needed <= ends[1]
        assert 0.7 < within / 400 < 0.9, truth
    least = times_between(0.0, 0.0, 1.0, freedom, level)
    assert least[1] == pytest.approx(2.0 * (threshold / LEAST_ERRORS) ** 2)
    assert times_between(0.5, 0.5, 1.0, freedom, level)[1] == times_between(-1.0, 2.0, 0.1, freedom, level)[1]
    assert least[1] > 4 * least[0] >= 4.0
    assert times_between(1.0, 1.0, math.inf, freedom, level) is None


def test_a_minimum_needs_its_lowest_curvature_beyond_its_error():
    rng = np.random.default_rng(8)
    matrix = np.diag([0.5, 1.0, 2.0])
    clear = hp.classify(quadratic, point(3), cut(samples(rng, matrix, 160, 0.2), [10] * 16))
    assert (clear.label, clear.certified, clear.confidence) == ("minimum", False, 0.99)
    noisy = cut(samples(rng, matrix, 40, 3.0), [4] * 10)
    assert hp.classify(quadratic, point(3), noisy).label in ("undetermined", "not_critical")


def test_a_slope_of_noise_alone_is_not_decided():
    rng = np.random.default_rng(9)
    noisy = samples(rng, np.diag([1.0, 2.0, -1e-3]), 64, 0.0, slope_noise=1.0)
    found = hp.classify(quadratic, point(3), cut(noisy, [4] * 16))
    assert found.label == "undetermined"
    assert found.reasons[0] == "gradient_over_batches_noisy"
    sloping = samples(rng, np.diag([1.0, 2.0, -1e-3]), 64, 0.0, slope=[1.0, 0.0, 1.0], slope_noise=1.0)
    assert hp.classify(quadratic, point(3), cut(sloping, [4] * 16)).label == "not_critical"


def test_a_critical_point_that_noise_moves_about_is_not_decided():
    """The mean gradient happens to vanish; the gradient of all the data may be far from it."""
    rng = np.random.default_rng(10)
    matrices, slopes = samples(rng, np.diag([1.0, 2.0, 3.0]), 64, 0.0, slope_noise=10.0)
    slopes = np.concatenate([np.round(slopes[:32]), -np.round(slopes[:32])])
    center = point(3, 0.25)
    found = hp.classify(lambda w, b: quadratic(w - center, b), center, cut((matrices, slopes), [4] * 16))
    assert found.label == "undetermined"
    assert found.reasons[0] == "shift_too_large"
    assert found.samples_needed > 64


@pytest.mark.slow
def test_noise_in_many_directions_moves_the_critical_point():
    """Neither end shows it: the gradient scatters along soft directions in the middle of the spectrum."""
    rng = np.random.default_rng(17)
    n = 100
    matrix = np.diag(np.r_[-1.0, np.full(n - 2, 0.01), 1.0])
    slopes = np.zeros((64, n), FLOAT)
    slopes[:32, 1:-1] = np.round(rng.standard_normal((32, n - 2)))
    slopes[32:] = -slopes[:32]
    matrices = np.repeat(matrix[None].astype(FLOAT), 64, 0)
    center = point(n, 0.25)

    def loss(w, batch):
        return quadratic(w - center, batch)

    found = hp.classify(loss, center, cut((matrices, slopes), [4] * 16))
    assert found.label == "undetermined"
    assert found.reasons[0] == "shift_too_large"
    quiet = hp.classify(loss, center, cut((matrices, slopes / 128), [4] * 16))
    assert quiet.label == "saddle"


def test_parameters_fitted_to_the_batches_are_noticed():
    """At the minimum of a mean its halves' slopes cancel; a slope there is left by the rounding of a stop."""
    rng = np.random.default_rng(18)
    x = rng.standard_normal((64, 8))
    y = x @ np.ones(8) + rng.standard_normal(64)
    fit = np.linalg.lstsq(x, y, rcond=None)[0]
    batches = cut((x.astype(FLOAT), y.astype(FLOAT)), [4] * 16)

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    found = hp.classify(loss, jnp.asarray(fit, FLOAT), batches)
    assert found.label in ("minimum", "undetermined")
    assert "fitted" in found.reasons or found.label == "undetermined"


def test_a_null_space_is_left_out_of_the_halves_too():
    rng = np.random.default_rng(19)
    matrices, slopes = samples(rng, saddle_matrix(6), 128, 0.5)
    matrices[:, 5, :] = matrices[:, :, 5] = 0.0
    null = np.eye(6)[5:].astype(FLOAT)
    found = hp.classify(quadratic, point(6), cut((matrices, slopes), [8] * 16), null_space=null)
    assert (found.label, found.confidence) == ("saddle", 0.99)


def test_few_batches_are_said_to_be_all_there_is():
    rng = np.random.default_rng(11)
    found = hp.classify(quadratic, point(6), cut(samples(rng, saddle_matrix(6), 48, 1.0), [16] * 3))
    assert found.label == "saddle"
    assert found.certified
    assert found.reasons[-1] == "few_batches"
    assert found.grad_norm_error is None


def test_a_budget_too_small_for_the_check_says_so():
    rng = np.random.default_rng(12)
    batches = cut(samples(rng, saddle_matrix(40), 64, 0.1), [4] * 16)
    full = hp.classify(quadratic, point(40), batches)
    assert full.label == "saddle"
    for budget in (6, 7, 10, 13, 16, full.num_hvps - 1, full.num_hvps + SAMPLING_HVPS):
        found = hp.classify(quadratic, point(40), batches, max_hvps=budget)
        assert found.num_hvps <= budget
        assert found.label == "saddle" or set(found.reasons) & SHORT


def test_batches_in_another_order_give_the_same_kind_of_answer():
    rng = np.random.default_rng(13)
    batches = cut(samples(rng, saddle_matrix(8), 128, 0.5), [16] * 8)
    one, two = (hp.classify(quadratic, point(8), b) for b in (batches, batches[::-1]))
    assert one.label == two.label == "saddle"
    np.testing.assert_allclose(one.lowest.standard_errors, two.lowest.standard_errors, rtol=0.05)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_the_unit_of_the_loss_changes_no_label(unit):
    rng = np.random.default_rng(14)
    for noise, expected in ((0.5, "saddle"), (12.0, "undetermined")):
        batches = cut(samples(rng, saddle_matrix(8), 64, noise), [8] * 8)
        plain = hp.classify(quadratic, point(8), batches)
        scaled = hp.classify(lambda w, b: unit * quadratic(w, b) + unit, point(8), batches)
        assert plain.label == scaled.label == expected
        assert plain.samples_needed == scaled.samples_needed


def test_sampled_is_a_flag():
    with pytest.raises(TypeError, match="sampled"):
        hp.classify(lambda w: w @ w, point(2), sampled=1)


# ---------------------------------------------------------------- the gradient


@pytest.mark.slow
def test_the_noise_of_the_gradient_is_that_of_its_samples():
    rng = np.random.default_rng(15)
    arrays = samples(rng, np.eye(30), 4000, 0.0, slope=np.full(30, 0.1), slope_noise=1.0)
    found = hp.classify(quadratic, point(30), cut(arrays, [80] * 50))
    assert found.grad_norm_error == pytest.approx(math.sqrt(30 / 4000), rel=0.15)


def test_more_samples_for_less_curvature():
    needs = [times_the_data(value, value, 1.0, 15.0, 0.99) for value in (4.0, 2.0, 1.0)]
    assert 1.0 <= needs[0] < needs[1] < needs[2]
    assert times_the_data(0.0, 0.0, math.inf, 0.0, 0.99) is None
    assert times_the_data(3.0, 3.0, 0.0, 3.0, 0.99) == 1.0
    assert times_the_data(3.0, 3.0, 1.0, 3.0, 0.99) > times_the_data(3.0, 3.0, 1.0, 63.0, 0.99)
    assert times_the_data(2.0, 2.0, 1.0, 15.0, 0.99, bias=2.0) > needs[1]
    assert 0 < POWER < 1


@pytest.mark.parametrize(("samples_wanted", "shown"), [(1.2, 2), (99.0, 99), (12_345.0, 13_000)])
def test_numbers_of_samples_are_rounded_up(samples_wanted, shown):
    assert rounded_up(samples_wanted) == shown


def test_the_halves_search_keeps_to_its_budget():
    rng = np.random.default_rng(16)
    op = hp.hessian(
        quadratic, point(30), cut(samples(rng, saddle_matrix(30), 40, 0.1), [4] * 10), check=False
    )
    assert steps_for_halves(op, 10, 5) == 0
    steps = steps_for_halves(op, 10, 13)
    assert steps == 9
    before = op.num_hvps
    held_out(op, steps, rng)
    assert op.num_hvps - before <= 13


@pytest.mark.parametrize(("power", "mean"), [(4, 0.1), (3, 0.0)])
def test_higher_order_of_a_sample_decides_nothing_about_the_whole(power, mean):
    """½y² + a x^power (+ x⁴) with a drawn for every sample: its sign on these data is chance."""

    def loss(p, batch):
        form = 0.5 * p[1] ** 2 + jnp.mean(batch) * p[0] ** power
        return form + (p[0] ** 4 if power == 3 else 0.0)

    rng = np.random.default_rng(20)
    batches = [(mean + rng.standard_normal(4)).astype(FLOAT) for _ in range(8)]
    found = hp.classify(loss, point(2), batches)
    assert found.label == "undetermined"
    assert found.reasons[0] == "higher_order_not_held_out"
    assert hp.classify(loss, point(2), batches, sampled=False).label in ("minimum", "saddle")


def test_samples_needed_for_the_place_are_enough_in_a_simulation_of_their_own():
    """Slopes of a known mean, sampled anew with the number asked for: near or far is then told."""
    curvatures, errors = np.array([-1.0, 0.5, 1.0, 2.0]), np.full(4, 0.1)
    limits, rng = (0.05, 0.25, 0.05), np.random.default_rng(7)
    for mean, near in ((np.zeros(4), True), (np.full(4, 0.5), False)):
        told = 0
        for _ in range(60):
            pilot = mean + errors * rng.standard_normal(4)
            times = times_for_place(pilot, errors, curvatures, limits, 0.99, 15.0)
            assert times is not None
            seen = mean + errors * rng.standard_normal(4) / math.sqrt(times)
            moved = 0.5 * np.sum(np.square(errors) / times / np.abs(curvatures))
            ahead = abs(0.5 * np.sum(np.square(seen) / curvatures))
            told += ahead + moved <= limits[0] if near else ahead > limits[0]
        assert told >= 60 * POWER


def test_samples_needed_for_the_place_know_no_units_and_grow_with_the_noise():
    slopes, errors, curvatures = np.array([0.3, 0.1]), np.array([0.2, 0.1]), np.array([-1.0, 2.0])
    plain = times_for_place(slopes, errors, curvatures, (0.05, 0.2, 0.05), 0.99, 15.0)
    scaled = times_for_place(1e6 * slopes, 1e6 * errors, 1e6 * curvatures, (5e4, 2e5, 0.05), 0.99, 15.0)
    assert plain == pytest.approx(scaled)
    assert times_for_place(slopes, 2 * errors, curvatures, (0.05, 0.2, 0.05), 0.99, 15.0) > plain
    assert times_for_place(slopes, 1e6 * errors, curvatures, (0.05, 0.2, 0.05), 0.99, 15.0) is None
