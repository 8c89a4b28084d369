"""Descents within a reach: against closed forms, in both precisions, with a direction held."""

import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.operators.hessian import hessian
from hessian_probe.points.descent import AdamSearch, Within, adam, advance, begin, trial

CURVATURES = np.array([1.0, 3.0, 10.0, 30.0])
LOWEST = np.array([1.0, -0.5, 0.25, 2.0])


def valley(x):
    """A quadratic whose minimum is at LOWEST, in two leaves."""
    rest = jnp.concatenate([x["a"], x["b"]]) - jnp.asarray(LOWEST)
    return 0.5 * jnp.sum(jnp.asarray(CURVATURES) * rest**2)


def descended(reach, held=None, evaluations=40):
    op = hessian(valley, {"a": jnp.zeros(1), "b": jnp.zeros(3)}, check=False)
    still = jnp.zeros(4, op.dtype)
    within = Within(reach, still if held is None else jnp.asarray(held, op.dtype), 1.0, 1 / 30)
    state, falls = begin(still), []
    there, ended = trial(op.layout, op.x, still, reach), False
    while not ended and len(falls) < evaluations:
        value, gradient = op.objective.value_and_gradient(there)
        falls.append(op.value - value)
        state, there, ended = advance(op.layout, op.x, state, falls[-1], gradient, within)
    return np.asarray(state.at), falls


def test_lbfgs_finds_the_minimum_of_a_quadratic():
    at, falls = descended(10.0)
    assert at == pytest.approx(LOWEST, abs=1e-3)
    assert max(falls) == pytest.approx(0.5 * CURVATURES @ LOWEST**2, rel=1e-5)
    assert len(falls) < 40  # it ends where rounding lets nothing fall any more


def test_lbfgs_stays_within_the_reach_and_finds_the_lowest_point_there():
    at, _ = descended(1.0)
    assert np.linalg.norm(at) == pytest.approx(1.0, rel=1e-4)
    # On the sphere (H + σ)x = Hm; σ by bisection.
    low, high = 0.0, 1e3
    for _ in range(200):
        sigma = 0.5 * (low + high)
        x = CURVATURES * LOWEST / (CURVATURES + sigma)
        low, high = (sigma, high) if np.linalg.norm(x) > 1 else (low, sigma)
    assert at == pytest.approx(x, abs=5e-3)


def test_a_direction_held_is_not_gone_along():
    at, _ = descended(10.0, held=[0.0, 1.0, 0.0, 0.0])
    assert at == pytest.approx(LOWEST * [1, 0, 1, 1], abs=1e-3)


def test_where_the_loss_is_not_finite_shorter_steps_are_tried():
    op = hessian(
        lambda x: jnp.sum(jnp.where(x > -0.4, jnp.square(x - 1), jnp.nan)), jnp.zeros(3), check=False
    )
    still = jnp.zeros(3, op.dtype)
    within = Within(10.0, still, 10.0, 4.0)  # the first step is 8 times too long
    state, there, falls = begin(still), op.x, []
    for _ in range(30):
        value, gradient = op.objective.value_and_gradient(there)
        falls.append(op.value - value)
        state, there, _ = advance(op.layout, op.x, state, falls[-1], gradient, within)
    assert float(state.fall) == pytest.approx(3.0, rel=1e-5)


def test_adam_takes_steps_of_its_rate_within_the_reach():
    op = hessian(valley, {"a": jnp.zeros(1), "b": jnp.zeros(3)}, check=False)
    still = jnp.zeros(4, op.dtype)
    within = Within(1.0, still, 0.0, 0.05)
    state, there = AdamSearch(still, still, still, jnp.zeros((), jnp.int32)), op.x
    for turn in range(60):
        state, there = adam(op.layout, op.x, state, op.objective.value_and_gradient(there)[1], within)
        if turn == 0:
            assert np.abs(state.at) == pytest.approx(0.05, rel=1e-4)
        assert np.linalg.norm(np.concatenate([np.ravel(leaf) for leaf in there])) <= 1 + 1e-5
    assert op.objective.value(there) < 0.6 * op.value


def test_adam_keeps_its_steps_where_squares_of_the_gradient_underflow():
    op = hessian(lambda x: jnp.abs(x[0]) + 1e-30 * x[1], jnp.ones(2), check=False)
    still = jnp.zeros(2, op.dtype)
    within, state = Within(1.0, still, 0.0, 0.05), AdamSearch(still, still, still, jnp.zeros((), jnp.int32))
    there = op.x
    for _ in range(10):
        state, there = adam(op.layout, op.x, state, op.objective.value_and_gradient(there)[1], within)
    assert np.max(np.abs(state.at)) <= 10 * 0.05 + 1e-6
    assert op.objective.value(there) < 0.7 * op.value
