"""What is left to gain at endings: bounds against dense trust-region solutions, and a training's end."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from benchmarks.endings.gain import TrustRegion, gain_at


def lowest_within(values, parts, radius):
    """Least value of the quadratic model in a ball, by the secular equation."""
    floor = max(0.0, -values.min())
    if floor == 0 and np.linalg.norm(parts / values) <= radius:
        step = -parts / values
    else:
        sigma = scipy.optimize.brentq(
            lambda s: np.linalg.norm(parts / (values + s)) - radius, floor * (1 + 1e-12) + 1e-13, 1e6
        )
        step = -parts / (values + sigma)
    return float(parts @ step + 0.5 * values @ step**2)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_lies_above_the_model_and_the_step_reaches_it(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(12) ** 3) if seed % 2 else np.logspace(-6, 0, 12)
    parts, radius = rng.standard_normal(12) * 10.0 ** rng.uniform(-4, 1), 10.0 ** rng.uniform(-2, 1)
    region = TrustRegion(values, parts, np.zeros(12))
    best = -lowest_within(values, parts, radius)
    step, decrease = region.step(radius)
    assert np.linalg.norm(step) <= radius * (1 + 1e-6)
    assert decrease == pytest.approx(best, rel=1e-3)
    assert best * (1 - 1e-9) <= region.bound(radius, 0.0) <= 1.5 * best


@pytest.mark.parametrize("size", [3, 7, 12])
def test_the_bound_holds_in_a_krylov_space(size):
    rng = np.random.default_rng(size)
    values, parts = np.logspace(-4, 0, 40), rng.standard_normal(40)
    basis = np.linalg.qr(np.stack([values**k * parts for k in range(size + 1)], 1))[0]
    matrix = basis.T @ np.diag(values) @ basis
    ritz, weights = np.linalg.eigh(matrix[:size, :size])
    region = TrustRegion(
        ritz, np.linalg.norm(parts) * weights[0] * np.sign(basis[:, 0] @ parts), matrix[size, :size] @ weights
    )
    best = -lowest_within(values, parts, 0.5)
    assert region.step(0.5)[1] <= best * (1 + 1e-9) <= region.bound(0.5, 0.0) * (1 + 1e-6)


def orbit(p, _):
    return (p[0] * p[1] - 2) ** 2 + p[2] ** 2


def tail(x, _):
    return jnp.exp(-x[0]) + x[1] ** 2


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-6])
def test_beside_a_curve_of_minima_nothing_is_left_to_gain(distance):
    """Off the curve p0·p1 = 2 the flat direction has curvature that the distance makes."""
    gain = gain_at(orbit, jnp.array([2**0.5, 2**0.5 * (1 + distance), 0.0]), 0.0)
    assert gain.value <= gain.resolution
    assert not gain.tail


def test_a_slope_shows_what_it_gains():
    gain = gain_at(orbit, jnp.array([1.0, 1.5, 0.2]), 0.0)
    assert gain.shown > 1000 * gain.resolution
    assert gain.value >= gain.shown


@pytest.mark.parametrize("far", [3.0, 6.0])
def test_a_tail_is_told_from_a_minimum(far):
    gain = gain_at(tail, jnp.array([far, 0.0]), 0.0)
    assert gain.tail or gain.shown > gain.resolution
