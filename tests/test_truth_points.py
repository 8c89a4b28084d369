"""Every truth point's label, verified by what was built: dense, or by a proof, in numpy float64.

Where the construction is a sum over known forms, signs come from it by Sylvester's law; elsewhere from
dense derivatives, from curves along which the loss falls, or from inequalities that prove a slope.
"""

import functools
import itertools
from collections import Counter

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from test_problems import dense, flat_params, inertia, ridge_gradient, ridge_hessian, value

from benchmarks.speed import digits_mlp_85k
from benchmarks.truth_points import NEED_EXTRAS, TRUTH_KINDS, truth_points
from benchmarks.truth_points.networks import plateau_points
from benchmarks.truth_points.sampled import BATCH, NARROW, standard_errors_needed
from hessian_probe.problems.known_point import label_from_signs

# The truth does not depend on the suite's precision.
pytestmark = pytest.mark.one_precision
# Drawn from seeds, and verified by what was drawn; the others by dense eigenvalues.
AT_A_RESOLUTION = ("beside", "ill_conditioned", "relu")
DRAWN = ("certificate", "noise", "precision", "flat", "scale", "kink", "slope", "orbit", *AT_A_RESOLUTION)
DENSE = [kind for kind in TRUTH_KINDS if kind not in DRAWN and kind not in NEED_EXTRAS]
RNG = np.random.default_rng(0)


@functools.cache
def drawn(kind):
    return truth_points(kind)


def points_of(kind, *names):
    return [p for p in drawn(kind) if not names or p.name.startswith(names)]


@pytest.mark.parametrize("kind", [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS])
def test_names_are_unique_and_reasons_given(kind):
    points = drawn(kind)
    assert all(point.why and point.kind == kind for point in points)
    assert len({point.name for point in points}) == len(points)
    assert kind not in DRAWN or len(points) >= 30


@pytest.mark.parametrize("kind", ["noise", "precision", "scale", "kink", "slope", "orbit", *AT_A_RESOLUTION])
@pytest.mark.slow
def test_a_seed_draws_other_points_of_the_same_labels(kind):
    first, second = drawn(kind), truth_points(kind, seed=1)
    assert Counter(p.label for p in first) == Counter(p.label for p in second)
    leaves = [[np.asarray(leaf) for leaf in jax.tree.leaves(p.data)] for p in (first[3], second[3])]
    assert any(not np.array_equal(a, b) for a, b in zip(*leaves, strict=True))


def ridge_signs(point):
    """Signs of a ridge polynomial's curvature at its centre, by Sylvester's law of inertia."""
    rows, offsets, weights = point.data
    np.testing.assert_allclose(rows @ point.params, offsets, atol=1e-12 * np.abs(offsets).max(initial=1.0))
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=1e-12)
    assert not np.any(weights[:, [0, 2]])
    return weights[:, 1]


def check_ridge(point):
    curvature = ridge_signs(point)
    negative, positive = int(np.sum(curvature < 0)), int(np.sum(curvature > 0))
    assert (point.index, point.num_zero) == (negative, 0)
    assert point.label == label_from_signs(negative, positive)
    size = np.abs(curvature)
    decisive = size.min()
    if point.label == "saddle":
        decisive = min(-curvature.min(), curvature.max())
    assert point.gap == 1.0 or point.gap <= decisive / size.max() * (1 + 1e-9)


def test_one_small_eigenvalue_in_a_bulk():
    points = points_of("certificate")
    for point in points:
        check_ridge(point)
    assert {p.size for p in points} == {10, 40, 120, 300, 400}
    assert sum(p.label == "saddle" and p.index > 1 for p in points) >= 15


def test_units_and_conditioning():
    points = points_of("scale", "units", "condition")
    assert len(points) == 52
    for point in points:
        check_ridge(point)
        if point.name.startswith("condition"):
            curvature = np.abs(ridge_signs(point))
            np.testing.assert_allclose(point.gap, curvature.min() / curvature.max(), rtol=1e-9)


def test_offsets_leave_the_hessian():
    for point in points_of("scale", "offset"):
        value_here, gradient, hessian = dense(point)
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[[0, -1]], point.eigenvalue_range, rtol=1e-12)
        assert not np.any(gradient)
        assert abs(value_here) >= 1e4
        negative, _, positive = inertia(np.linalg.eigvalsh(hessian))
        assert point.label == label_from_signs(negative, positive)


def test_populations_agree_with_what_was_drawn():
    """Dense gradient and Hessian of the samples, against the labels that count as decidable."""
    for point in points_of("noise"):
        h, g, rotation, center = (np.concatenate(part) for part in zip(*point.data, strict=True))
        assert np.array_equal(center[0], point.params)
        count = len(h)
        parts = [dense(point.__class__(**{**vars(point), "data": batch})) for (batch,) in point.batches[:2]]
        by_hand = rotation[0].T @ np.diag(h[:BATCH].mean(0)) @ rotation[0]
        np.testing.assert_allclose(parts[0][2], by_hand, atol=1e-12 * np.abs(by_hand).max())
        np.testing.assert_allclose(
            parts[1][1], rotation[0].T @ g[BATCH : 2 * BATCH].mean(0), atol=1e-12 * np.abs(g).max()
        )
        error, slope_error = h.std(0) / np.sqrt(count), g.std(0) / np.sqrt(count)
        if point.label == "not_critical":
            assert point.decidable == (
                g.mean(0)[0] > standard_errors_needed(len(point.data)) * slope_error[0]
            )
            continue
        assert np.all(np.abs(g.mean(0)) < 4.5 * slope_error)
        signs = h.mean(0)
        assert (
            np.sum(np.sign(signs[1:]) != (-1 if point.label == "maximum" else 1)) == 0 or not point.decidable
        )
        if point.decidable:
            negative = int(np.sum(signs < 0))
            assert point.label == label_from_signs(negative, signs.size - negative)
            assert np.min(np.abs(signs) / error) > 4.0
    labels = Counter((p.label, p.decidable) for p in points_of("noise"))
    assert {label: labels[label, True] for label, _ in labels} == dict.fromkeys(
        ("minimum", "saddle", "maximum", "not_critical"), 5
    )


def test_narrow_numbers_are_exact():
    for point in points_of("precision"):
        narrow = point.name.split("_")[0]
        rows, target, weights = (np.asarray(part, np.float64) for part in point.data)
        exact = [point.params] if point.fixed_dtype else [rows, target, point.params]
        for part in exact:
            assert np.array_equal(part, np.asarray(part).astype(NARROW[narrow]).astype(part.dtype))
        values = np.linalg.eigvalsh(rows.T @ np.diag(weights) @ rows)
        negative = int(np.sum(values < 0))
        assert point.index == negative
        assert point.label == label_from_signs(negative, values.size - negative)
        # The exact critical point: here, but for the rounding of the target.
        x = np.asarray(point.params, np.float64)
        unit = float(jax.numpy.finfo(NARROW[narrow]).eps)
        apart = np.linalg.norm(np.linalg.solve(rows, target) - x)
        assert apart <= (0.0 if point.fixed_dtype else 4 * unit * np.linalg.norm(x)) + 1e-12
        gap = min(-values[0], values[-1]) if point.label == "saddle" else np.abs(values).min()
        gap /= np.abs(values).max()
        assert gap > 16 * unit if point.decidable else gap < 0.5 * unit


def unused_directions(count, size):
    directions = RNG.standard_normal((count, size))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def check_sampled(point, radius):
    """Nothing lower around a minimum, nothing higher around a maximum, both around a saddle."""
    x, here = flat_params(point), value(point)
    around = np.array([value(point, x + radius * d) - here for d in unused_directions(30, x.size)])
    rounding = 1e-13 * max(1.0, abs(here))
    if point.label == "minimum":
        assert around.min() >= -rounding, point
    elif point.label == "maximum":
        assert around.max() <= rounding, point
    else:
        assert around.max() > rounding, point


@pytest.mark.slow
def test_flat_points_have_the_inertia_that_is_stated():
    for point in drawn("flat"):
        _, gradient, hessian = dense(point)
        values = np.linalg.eigvalsh(hessian)
        top = max(np.abs(values).max(), 1e-300)
        assert np.linalg.norm(gradient) <= 1e-12 * max(top, 1.0) * (1.0 + np.linalg.norm(flat_params(point)))
        negative, zero, positive = inertia(values) if top > 1e-12 else (0, values.size, 0)
        assert point.index in (None, negative)
        assert point.num_zero in (None, zero)
        assert point.degenerate == (zero > 0 and not (negative and positive))
        if not point.degenerate:
            assert point.label == label_from_signs(negative, positive)
        if point.label != "saddle" or not point.index:
            check_sampled(point, 0.05)


def falling_curve(point):
    """A curve t → params through a flat saddle along which the loss falls for t > 0."""
    if point.name.startswith("form"):
        rotation, center, curvature, bend, bend_rows, weights, rows = point.data
        order = int(point.name[4])
        trials = np.r_[unused_directions(2000, rows.shape[1]), -rows[:1]]
        trials /= np.linalg.norm(trials, axis=1, keepdims=True)
        u = trials[np.argmin((trials @ rows.T) ** order @ weights)]

        def curve(t):
            z = np.zeros(len(center))
            z[: len(u)] = t * u
            if curvature.any():
                z[-len(curvature) :] = bend * (bend_rows @ (t * u)) ** 2
            return center + rotation.T @ z

        return curve
    if point.name.startswith("peano"):
        rotation, center, slopes, which = point.data
        power = 2 + int(np.argmax(which))
        return lambda t: center + rotation.T @ np.array([t, slopes.mean() * t**power])
    if point.name.startswith("power_sum"):
        rotation, center, weights = point.data
        return lambda t: center + t * rotation.T @ np.eye(4)[np.argmin(weights.min(axis=1))]
    direction = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(point.descent)])
    return lambda t: flat_params(point) + t * direction


def test_flat_saddles_fall_along_a_curve():
    saddles = [p for p in drawn("flat") if p.label == "saddle" and p.degenerate]
    assert len(saddles) > 60
    for point in saddles:
        if point.index:  # second order falls; the other side was sampled
            continue
        here, curve = value(point), falling_curve(point)
        falls = [value(point, curve(t)) - here for t in (0.2, 0.1)]
        assert falls[0] < falls[1] < 0.0, point


def test_flat_saddles_of_falling_curvature_rise_by_higher_order():
    saddles = [p for p in drawn("flat") if p.label == "saddle" and p.degenerate and p.index]
    assert len(saddles) > 15
    for point in saddles:
        rotation, center = point.data[:2]
        if point.name.startswith("power_sum"):
            up = np.eye(4)[np.argmax(point.data[2].max(axis=1))]
        else:
            weights, rows = point.data[-2:]
            trials = unused_directions(2000, rows.shape[1])
            u = trials[np.argmax((trials @ rows.T) ** int(point.name[4]) @ weights)]
            up = np.r_[u, np.zeros(len(center) - len(u))]
        assert value(point, center + 0.2 * rotation.T @ up) > value(point)


def test_tails_have_no_critical_point():
    for point in points_of("scale", "tail"):
        assert point.label == "not_critical"
        for first in np.r_[point.params[0], RNG.uniform(0.1, 40.0, 20)]:
            at = np.r_[first, RNG.uniform(-1.0, 1.0, 2)]
            assert dense(point, at)[1][0] < 0.0
    for point in points_of("scale", "separable"):
        inputs, signs = point.data
        assert np.all(signs * (inputs @ point.params) > 0.0)
        for at in (point.params, 2.0 * point.params, RNG.standard_normal(4)):
            assert dense(point, at)[1] @ point.params < 0.0


def test_scale_invariant_losses():
    for point in points_of("scale", "rayleigh"):
        radius = np.linalg.norm(point.params)
        np.testing.assert_allclose(value(point), value(point, 3.0 * point.params), rtol=1e-13)
        _, gradient, hessian = dense(point)
        if point.label == "not_critical":
            # The derivative by the angle between qᵢ and qⱼ is (aⱼ − aᵢ) sin 2θ, largest here.
            np.testing.assert_allclose(np.linalg.norm(gradient) * radius, 4.0, rtol=1e-9)
            continue
        assert np.linalg.norm(gradient) * radius < 1e-13
        negative, zero, _ = inertia(np.linalg.eigvalsh(hessian))
        assert (negative, zero) == (point.index, point.num_zero)
        check_sampled(point, 0.1 * radius)


def test_slopes_that_almost_vanish():
    for point in points_of("scale", "cubic"):
        _, gradient, hessian = dense(point)
        if point.label == "not_critical":
            assert point.data[0][0] > 0.0  # x² + e has no root
            assert gradient[0] == point.data[0][0]
            continue
        assert np.linalg.norm(gradient) < 1e-16
        values = np.linalg.eigvalsh(hessian)
        assert point.label == label_from_signs(int(np.sum(values < 0)), int(np.sum(values > 0)))
        np.testing.assert_allclose(point.gap, np.abs(values).min() / np.abs(values).max(), rtol=1e-9)


def test_points_inside_a_piece_and_at_kinks():
    for point in points_of("kink"):
        if point.name.startswith("lasso"):
            rows, target, penalty = point.data
            slope = rows.T @ (target - rows @ point.params) / penalty[0]
            on = point.params != 0.0
            np.testing.assert_allclose(slope[on], np.sign(point.params[on]), atol=1e-11)
            assert np.all(np.abs(slope[~on]) < 1.0)
            assert point.decidable == bool(on.all())
        if point.decidable:
            _, gradient, hessian = dense(point)
            assert np.linalg.norm(gradient) < 1e-11 * np.abs(hessian).max()
            negative, zero, positive = inertia(np.linalg.eigvalsh(hessian))
            assert point.index in (None, negative)
            assert point.degenerate == (zero > 0 and not (negative and positive))
            assert point.label == label_from_signs(negative, positive)
        for radius in (1e-2, 1e-3):
            check_sampled(point, radius)


def test_kinked_saddles_fall():
    for point in points_of("kink"):
        if point.decidable or point.label != "saddle":
            continue
        x, here = flat_params(point), value(point)
        around = [value(point, x + 1e-3 * d) - here for d in unused_directions(60, x.size)]
        assert min(around) < 0.0 < max(around), point


def test_slopes_rise_for_ever():
    for point in points_of("slope", "rising"):
        rows, offsets, weights = point.data
        for at in (point.params, *(point.params + 3.0 * d for d in unused_directions(10, 10))):
            along = ridge_gradient(at, point.data) @ rows[0]
            z = rows[0] @ at - offsets[0]
            np.testing.assert_allclose(along, weights[0, 0] / 10 * (1.0 + z**2), rtol=1e-8)
            assert along > 0.0
    for point in points_of("slope", "valley"):
        for first in np.r_[point.params[0], RNG.uniform(-2.0, 2.0, 5)]:
            gradient = dense(point, np.r_[first, np.full(3, first**2)])[1]
            np.testing.assert_allclose(gradient, [point.data[1][0], 0, 0, 0], atol=1e-12)
    for point in points_of("slope", "inflection"):
        _, gradient, hessian = dense(point)
        flat = np.abs(np.diag(hessian)) < 1e-12
        assert flat.sum() == point.num_zero
        steepest = 2.0 / (3.0 * np.sqrt(3.0)) * point.data**3
        np.testing.assert_allclose(np.abs(gradient), steepest * flat, atol=1e-12)


def test_places_beside_critical_points_lead_to_them():
    """Newton's method, by hand in numpy, ends at the critical point whose label is given."""
    points = points_of("slope", "beside")
    assert len(points) == 36
    for point in points:
        x = point.params
        assert np.linalg.norm(ridge_gradient(x, point.data)) > 0.0
        for _ in range(8):
            x = x - np.linalg.solve(ridge_hessian(x, point.data), ridge_gradient(x, point.data))
        assert np.linalg.norm(ridge_gradient(x, point.data)) < 1e-12
        moved = np.linalg.norm(x - point.params)
        assert 1e-8 < moved < 0.011
        values = np.linalg.eigvalsh(ridge_hessian(x, point.data))
        negative = int(np.sum(values < 0))
        assert (point.label, point.index) == (
            label_from_signs(negative, values.size - negative),
            negative,
        )
        there = np.linalg.eigvalsh(ridge_hessian(point.params, point.data))
        assert np.all(np.abs(there - values) < 0.25 * np.abs(values).min())


@pytest.mark.slow
def test_orbits_have_the_inertia_that_is_stated():
    for point in drawn("orbit"):
        if point.size > 200:
            continue
        check_second_order(point)
        if point.label != "saddle" or not point.degenerate:
            check_sampled(point, 0.05 * np.linalg.norm(flat_params(point)) or 0.05)


def test_large_orbits_have_the_curvature_that_is_stated():
    """Along random directions, in the Rayleigh quotients that the stated extreme eigenvalues allow."""
    points = [point for point in drawn("orbit") if point.size == 5000]
    assert {point.label for point in points} == {"minimum", "maximum", "saddle"}
    for point in points:
        times = jax.jit(lambda p, data, v, f=point.loss: jax.jvp(lambda q: jax.grad(f)(q, data), (p,), (v,)))
        low, high = point.eigenvalue_range
        for v in RNG.standard_normal((3, *point.params.shape)):
            gradient, product = map(np.asarray, times(*point.args, v))
            assert np.linalg.norm(gradient) < 1e-12 * (high - low) * np.linalg.norm(point.params)
            assert low < np.vdot(v, product) / np.vdot(v, v) < high


def test_orbits_that_higher_order_decides():
    for point in points_of("orbit", "tensor_silent"):
        there = flat_params(point) + 0.2 * ravel_pytree(point.descent)[0]
        assert value(point, there) < value(point)
    (point,) = points_of("orbit", "gram_none_rank_3")
    null = np.linalg.eigh(point.data)[1][:, :3]
    assert value(point, 0.2 * null.ravel()) > value(point)


def ends_of_the_resolution(point):
    """The resolution by its definition, in numpy, for two quantiles of the shuffled losses."""
    x, here, hessian = flat_params(point), value(point), dense(point)[2]
    leaves, rng = jax.tree.leaves(point.params), np.random.default_rng(1)
    shuffled = [np.concatenate([rng.permutation(np.ravel(leaf)) for leaf in leaves]) for _ in range(100)]
    apart = np.abs(np.array([value(point, y) for y in shuffled]) - here)
    reach = 0.3 * max(np.linalg.norm(x), 1.0)
    others = [0.5 * np.abs(np.linalg.eigvalsh(hessian)).max() * reach**2, abs(value(point, 0.0 * x) - here)]
    scales = [[*others, end] for end in np.quantile(apart, [0.2, 0.8])]
    return [1e-5 * min(s for s in three if np.isfinite(s) and s > 0.0) for three in scales]


@pytest.mark.slow
@pytest.mark.parametrize("kind", AT_A_RESOLUTION)
def test_what_is_left_is_clearly_below_or_above_the_resolution(kind):
    """Every row is beside another one, whose name it begins with and whose value is the lowest."""
    small = [point for point in (*drawn("orbit"), *drawn(kind)) if point.size <= 300]
    lowest = {point.name.removesuffix("_solved"): value(point) for point in small} | {"valley": 0.0}
    for point in (point for point in drawn(kind) if point.size <= 300):
        low, high = ends_of_the_resolution(point)
        left = value(point) - min(here for name, here in lowest.items() if point.name.startswith(name))
        assert left <= 0.3 * low if point.label == "minimum" else left >= 3.0 * high, point


def check_second_order(point):
    _, gradient, hessian = dense(point)
    values = np.linalg.eigvalsh(hessian)
    scale = np.abs(values).max()
    if point.label != "not_critical":
        # Rounding of the coordinates moves the gradient by ‖H‖ × eps × ‖params‖.
        size = max(1.0, np.linalg.norm(flat_params(point)))
        assert np.linalg.norm(gradient) <= 1e-12 * max(scale, 1e-300) * size * 10 or scale == 0.0
    negative, zero, positive = inertia(values) if scale else (0, values.size, 0)
    if point.index is not None:
        assert negative == point.index
    if point.num_zero is not None:
        assert zero == point.num_zero
    if point.eigenvalue_range is not None:
        expected = np.asarray(point.eigenvalue_range)
        np.testing.assert_allclose(values[[0, -1]], expected, rtol=1e-7, atol=1e-9 * scale)
    if point.label != "not_critical":
        assert point.degenerate == (zero > 0 and not (negative and positive))
    if not point.degenerate and point.label in ("minimum", "maximum", "saddle"):
        assert point.label == label_from_signs(negative, positive)


@pytest.mark.slow
@pytest.mark.parametrize("kind", DENSE)
def test_second_order_agrees_with_dense_eigenvalues(kind):
    for point in drawn(kind):
        check_second_order(point)


def test_minima_have_nothing_lower_around():
    """A degenerate minimum is not proved by its Hessian: sample around it, at several distances."""
    rng = np.random.default_rng(0)
    points = truth_points(("degenerate", "linear_network", "cluster", "lecture"))
    minima = [p for p in points if p.label == "minimum" and p.degenerate]
    assert len(minima) > 15
    for point in minima:
        x = flat_params(point)
        here = value(point, x)
        for radius in (0.1, 0.01, 0.001):
            for _ in range(20):
                step = rng.standard_normal(x.size)
                there = value(point, x + radius * step / np.linalg.norm(step))
                assert there >= here - 1e-13 * max(1.0, abs(here)), point


def lower_curve(point):
    """A curve t -> parameters through the point on which the loss is lower for small t > 0."""
    curves = {
        "peano": lambda t: np.array([t, 1.5 * t**2]),
        "dixon_price3": lambda t: np.array([1.0 / 3.0, 2.0 * t**2, t]),
        # Each term of the tail vanishes on x_i = 2 x_{i+1}^2.
        "dixon_price6": lambda t: np.array([1.0 / 3.0, 2**15 * t**16, 2**7 * t**8, 2**3 * t**4, 2 * t**2, t]),
    }
    if point.name in curves:
        return curves[point.name]
    direction = ravel_pytree(point.descent)[0]
    np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-12)
    return lambda t: flat_params(point) + t * np.asarray(direction)


def test_saddles_that_second_order_does_not_see_are_saddles():
    rng = np.random.default_rng(1)
    saddles = [
        point
        for point in (*drawn("degenerate"), *drawn("linear_network"))
        if point.label == "saddle" and point.degenerate
    ]
    assert len(saddles) > 12
    for point in saddles:
        here, x = value(point), flat_params(point)
        curve = lower_curve(point)
        # The sixth Dixon-Price coordinate moves the second by 2^15 t^16: not too near.
        for t in (0.5, 0.4) if point.name == "dixon_price6" else (0.2, 0.1, 0.05):
            assert value(point, curve(t)) < here, point
        higher = [value(point, x + 0.05 * rng.standard_normal(x.size)) for _ in range(20)]
        assert max(higher) > here, point


@pytest.mark.parametrize(
    ("function", "euler"),
    [
        ("himmelblau", 1),
        ("six_hump_camel", 1),
        ("aluffi_pentini", 1),
        ("cbm", 1),
        ("dixon_price2", 1),
        ("styblinski_tang2", 1),
        ("two_minima_no_saddle", 2),
    ],
)
def test_complete_lists_satisfy_morse_theory(function, euler):
    """A coercive function has Σ (−1)^index = 1; the last one is not coercive."""
    points = points_of("plane", f"{function}_")
    assert sum((-1) ** point.index for point in points) == euler


def test_published_values():
    """Values of the literature (Müller & Brown 1979; Himmelblau 1972; Branin 1972)."""
    found = {
        name: sorted(value(p) for p in points_of("plane", name))
        for name in ("muller_brown", "himmelblau", "branin")
    }
    expected = [-146.6995, -108.1667, -80.76782, -72.24894, -40.66484]
    np.testing.assert_allclose(found["muller_brown"], expected, atol=1e-4)
    np.testing.assert_allclose(found["himmelblau"][:4], 0.0, atol=1e-20)
    np.testing.assert_allclose(found["branin"][:3], 0.397887, atol=1e-6)


def test_linear_networks_leave_the_unfitted_singular_values():
    """Loss = ½(‖Y‖² − Σ_{i∈S} sᵢ²), and the data have the singular values that were asked for."""
    s = np.array([3.0, 2.0, 1.0])
    for point in drawn("linear_network"):
        if point.data[0].shape[1] < 3 or point.data[1].shape[1] < 3:
            continue
        x, y = (part.T / np.sqrt(len(part)) for part in point.data)
        values, vectors = np.linalg.eigh(x @ x.T)
        whitener = vectors @ np.diag(values**-0.5) @ vectors.T
        found = np.linalg.svd(y @ x.T @ whitener, compute_uv=False)[:3]
        np.testing.assert_allclose(found, s, rtol=1e-12)
        assert x.shape[1] > x.shape[0]
        fitted = point.name.split("_fit_")[1].split("_")[0]
        chosen = [] if fitted == "none" else [int(c) - 1 for c in fitted]
        expected = 0.5 * (np.sum(y**2) - np.sum(s[chosen] ** 2))
        np.testing.assert_allclose(value(point), expected, rtol=1e-12)


def test_deep_linear_networks_cover_every_branch():
    points = drawn("linear_network")
    deep = Counter((len(p.params), p.label, p.degenerate) for p in points if len(p.params) > 2)
    for depth in (3, 4):
        for branch in (("minimum", True), ("saddle", True), ("saddle", False)):
            assert deep[(depth, *branch)] > 0
    assert sum(len(p.params) == 2 for p in points) == 23


def test_axis_aligned_saddles_point_every_way():
    points = drawn("axis_saddle")
    assert len(points) == 300
    downhill = set()
    for point in points:
        bend = ridge_hessian(point.params, point.data)
        assert np.array_equal(bend, np.diag(np.diag(bend)))
        downhill.add((point.size, int(np.argmin(np.diag(bend)))))
    assert {n for n, _ in downhill} == {2, 3, 5, 8, 13, 21}
    assert len(downhill) > 45  # of 52 axes


def test_styblinski_tang_has_every_index():
    for n, indices in ((2, range(3)), (10, range(11))):
        points = points_of("styblinski_tang", f"styblinski_tang_n{n}_")
        assert [point.index for point in points] == list(indices)


def test_clusters_are_the_known_ones():
    energies = {
        (5, "minimum"): [-9.103852],
        (5, "saddle"): [-8.480620, -8.197888],
        (6, "minimum"): [-12.712062, -12.302928],
        (6, "saddle"): [-12.079031, -11.630307, -11.334033],
        (7, "minimum"): [-16.505384, -15.935043, -15.593211, -15.533060],
    }
    points = drawn("cluster")
    assert len([p for p in points if p.size == 21 and p.index == 1]) == 12
    assert len(points) == 24
    for (atoms, label), expected in energies.items():
        found = []
        for point in points_of("cluster", f"lj{atoms}"):
            if point.label == label:
                pairs = itertools.combinations(point.params, 2)  # the definition, in plain Python
                r = np.array([np.linalg.norm(a - b) for a, b in pairs])
                found.append(np.sum(4.0 * (r**-12 - r**-6)))
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in TRUTH_KINDS if kind not in NEED_EXTRAS])
def test_losses_keep_float32(kind):
    """Under strict promotion, a loss of float32 arguments is float32, and finite."""
    for point in {point.loss: point for point in reversed(drawn(kind))}.values():
        small = point.astype(np.float32)
        there, slope = jax.jit(jax.value_and_grad(small.loss))(small.params, *small.batches[0])
        assert there.dtype == np.float32
        assert there.shape == ()
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
        expected = [leaf.dtype for leaf in jax.tree.leaves(small.params)]
        assert [leaf.dtype for leaf in jax.tree.leaves(slope)] == expected
        assert point.fixed_dtype or set(expected) == {np.dtype(np.float32)}


def test_truth_points_by_kind():
    both = truth_points(["lecture", "trap"])
    assert Counter(p.kind for p in both) == {"lecture": 2, "trap": 6}
    with pytest.raises(KeyError, match="nonsense"):
        truth_points("nonsense")


def test_digits_mlp_85k_is_the_benchmark():
    pytest.importorskip("sklearn")
    point = digits_mlp_85k()
    assert point.size == 85_002
    loss, gradient = jax.jit(jax.value_and_grad(point.loss))(*point.args)
    np.testing.assert_allclose(loss, 0.114163508, atol=1e-9)
    norm = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(norm, 0.0554938, atol=1e-7)


def newton_step(values, vectors, gradient):
    """Step to the local model's critical point in the curved directions; flat share of ‖g‖²."""
    parts = vectors.T @ gradient
    curved = np.abs(values) > 1e-3 * np.abs(values).max()
    step = -vectors[:, curved] @ (parts[curved] / values[curved])
    return step, np.sum(parts[~curved] ** 2) / np.sum(parts**2)


def check_state(point):
    """Measure what tells the states apart: the loss change to the critical point, and flatness."""
    here, gradient, hessian = dense(point)
    values, vectors = np.linalg.eigh(hessian)
    step, flat_share = newton_step(values, vectors, gradient)
    x = flat_params(point)
    change = value(point, x + step) - here
    state = point.name.split("_")[1]
    if state == "late":
        assert flat_share > 0.5
        return
    assert flat_share < 0.05
    lengths = np.concatenate([-np.geomspace(0.01, 10.0, 25), np.geomspace(0.01, 10.0, 25)])
    gain = here - min(value(point, x + t * vectors[:, 0]) for t in lengths)
    if state == "plateau":
        assert abs(change) < 4e-3 * gain
        _, remaining, hessian = dense(point, at=x + step)  # there, too, both signs
        ends = np.linalg.eigvalsh(hessian)[[0, -1]]
        assert -ends[0] > 0.1 * np.abs(ends).max()
        assert ends[1] > 0.1 * np.abs(ends).max()
        assert np.linalg.norm(remaining) < 0.5 * np.linalg.norm(gradient)
    else:
        assert abs(change) > 0.3 * gain


def test_a_plateau_is_near_a_saddle():
    pytest.importorskip("sklearn")
    check_state(plateau_points(0, ["tanh"], ["plateau"])[0])


@pytest.mark.slow
def test_every_state_of_every_network():
    pytest.importorskip("sklearn")
    points = truth_points("plateau")
    assert len(points) == 16
    for point in points:
        check_state(point)
