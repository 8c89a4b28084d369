"""The constructed part of the truth set: every label verified by what was built, in numpy float64.

Where the construction is a sum over known forms, signs come from it by Sylvester's law; elsewhere from
dense derivatives, from curves along which the loss falls, or from inequalities that prove a slope.
"""

import functools
from collections import Counter

import jax
import numpy as np
import pytest
from test_problems import dense, flat_params, inertia, needs_x64, value

from benchmarks.truth_points import truth_points
from benchmarks.truth_points.certificates import certificate_points
from benchmarks.truth_points.flat_forms import flat_form_point
from benchmarks.truth_points.kinked import kink_points
from benchmarks.truth_points.low_precision import NARROW, narrow_quadratic, precision_points
from benchmarks.truth_points.sampled import BATCH, sampled_points, standard_errors_needed
from benchmarks.truth_points.scales import scale_points
from benchmarks.truth_points.slopes import slope_points
from hessian_probe import problems
from hessian_probe.problems.known_point import label_from_signs

DRAWN = {
    "certificate": certificate_points,
    "noise": sampled_points,
    "precision": precision_points,
    "scale": scale_points,
    "kink": kink_points,
    "slope": slope_points,
}
RNG = np.random.default_rng(0)


@functools.cache
def drawn(kind):
    return truth_points(kind)


def points_of(kind, *names):
    return [p for p in drawn(kind) if not names or p.name.startswith(names)]


def test_more_than_300_points_are_drawn():
    points = [point for kind in (*DRAWN, "flat") for point in drawn(kind)]
    assert len(points) > 550
    assert all(point.why and point.kind in (*DRAWN, "flat") for point in points)
    assert len({(point.kind, point.name) for point in points}) == len(points)
    for kind in DRAWN:
        assert len(points_of(kind)) >= 30


@pytest.mark.parametrize("kind", DRAWN)
def test_a_seed_draws_other_points_of_the_same_labels(kind):
    few = {"sizes": (10, 40)} if kind == "certificate" else {}
    first, second = DRAWN[kind](seed=0, **few), DRAWN[kind](seed=1, **few)
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
    assert point.label == label_from_signs(negative, 0, positive)
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


@needs_x64
def test_offsets_leave_the_hessian():
    for point in points_of("scale", "offset"):
        value_here, gradient, hessian = dense(point)
        np.testing.assert_allclose(np.linalg.eigvalsh(hessian)[[0, -1]], point.eigenvalue_range, rtol=1e-12)
        assert not np.any(gradient)
        assert abs(value_here) >= 1e4
        negative, zero, positive = inertia(np.linalg.eigvalsh(hessian))
        assert point.label == label_from_signs(negative, zero, positive)


@needs_x64
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
            assert point.label == label_from_signs(negative, 0, signs.size - negative)
            assert np.min(np.abs(signs) / error) > 4.0
    labels = Counter((p.label, p.decidable) for p in points_of("noise"))
    assert {label: labels[label, True] for label, _ in labels} == dict.fromkeys(
        ("minimum", "saddle", "maximum", "not_critical"), 5
    )


@needs_x64
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
        assert point.label == label_from_signs(negative, 0, values.size - negative)
        # The exact critical point: here, but for the rounding of the target.
        x = np.asarray(point.params, np.float64)
        unit = float(jax.numpy.finfo(NARROW[narrow]).eps)
        apart = np.linalg.norm(np.linalg.solve(rows, target) - x)
        assert apart <= (0.0 if point.fixed_dtype else 4 * unit * np.linalg.norm(x)) + 1e-12
        gap = min(-values[0], values[-1]) if point.label == "saddle" else np.abs(values).min()
        gap /= np.abs(values).max()
        assert gap > 16 * unit if point.decidable else gap < 0.5 * unit
    with pytest.raises(ValueError, match="float16"):
        narrow_quadratic("float8")


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


@needs_x64
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
            assert point.label == label_from_signs(negative, zero, positive)
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


@needs_x64
def test_flat_saddles_fall_along_a_curve():
    saddles = [p for p in drawn("flat") if p.label == "saddle" and p.degenerate]
    assert len(saddles) > 60
    for point in saddles:
        if point.index:  # second order falls; the other side was sampled
            continue
        here, curve = value(point), falling_curve(point)
        falls = [value(point, curve(t)) - here for t in (0.2, 0.1)]
        assert falls[0] < falls[1] < 0.0, point


@needs_x64
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


def test_forms_refuse_what_cannot_be():
    with pytest.raises(ValueError, match="even order"):
        flat_form_point(3, "positive", "none")
    with pytest.raises(ValueError, match="mixed"):
        flat_form_point(4, "positive", "nonsense")


@needs_x64
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


@needs_x64
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


@needs_x64
def test_slopes_that_almost_vanish():
    for point in points_of("scale", "cubic"):
        _, gradient, hessian = dense(point)
        if point.label == "not_critical":
            assert point.data[0][0] > 0.0  # x² + e has no root
            assert gradient[0] == point.data[0][0]
            continue
        assert np.linalg.norm(gradient) < 1e-16
        values = np.linalg.eigvalsh(hessian)
        assert point.label == label_from_signs(int(np.sum(values < 0)), 0, int(np.sum(values > 0)))
        np.testing.assert_allclose(point.gap, np.abs(values).min() / np.abs(values).max(), rtol=1e-9)


@needs_x64
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
            assert point.label == label_from_signs(negative, zero, positive)
        for radius in (1e-2, 1e-3):
            check_sampled(point, radius)


@needs_x64
def test_kinked_saddles_fall():
    for point in points_of("kink"):
        if point.decidable or point.label != "saddle":
            continue
        x, here = flat_params(point), value(point)
        around = [value(point, x + 1e-3 * d) - here for d in unused_directions(60, x.size)]
        assert min(around) < 0.0 < max(around), point


@needs_x64
def test_slopes_rise_for_ever():
    for point in points_of("slope", "rising"):
        rows, offsets, weights = point.data
        for at in (point.params, *(point.params + 3.0 * d for d in unused_directions(10, 10))):
            along = problems.ridge_gradient(at, point.data) @ rows[0]
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


@needs_x64
def test_places_beside_critical_points_lead_to_them():
    """Newton's method, by hand in numpy, ends at the critical point whose label is given."""
    points = points_of("slope", "beside")
    assert len(points) == 36
    for point in points:
        x = point.params
        assert np.linalg.norm(problems.ridge_gradient(x, point.data)) > 0.0
        for _ in range(8):
            x = x - np.linalg.solve(
                problems.ridge_hessian(x, point.data), problems.ridge_gradient(x, point.data)
            )
        assert np.linalg.norm(problems.ridge_gradient(x, point.data)) < 1e-12
        moved = np.linalg.norm(x - point.params)
        assert 1e-8 < moved < 0.011
        values = np.linalg.eigvalsh(problems.ridge_hessian(x, point.data))
        negative = int(np.sum(values < 0))
        assert (point.label, point.index) == (
            label_from_signs(negative, 0, values.size - negative),
            negative,
        )
        there = np.linalg.eigvalsh(problems.ridge_hessian(point.params, point.data))
        assert np.all(np.abs(there - values) < 0.25 * np.abs(values).min())
