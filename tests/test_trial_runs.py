"""Runs of an optimiser on a copy: against steps taken in NumPy; what is listed where optax is missing."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.diagnosis.case import Case
from hessian_probe.optimizers.trial_runs import (
    Adam,
    AdamRunner,
    HeavyBall,
    perturb,
    reinitialise,
    take_step,
)
from hessian_probe.results import Cost

pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def adam_by_hand(gradient, x, rate, steps):
    """Kingma and Ba 2015, with ε as at the end of their section 2; the iterates."""
    mean, square, out = np.zeros_like(x), np.zeros_like(x), [x]
    for count in range(1, steps + 1):
        g = gradient(x)
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
        size = rate * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        x = x - size * mean / (np.sqrt(square) + 1e-8)
        out.append(x)
    return out


@pytest.mark.parametrize("scale", [1.0, 1e-8])
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_adam_is_that_of_the_paper_in_every_precision(dtype, scale, x64):
    """Gradients far above and below ε; integers beside the parameters stay as they are."""
    if dtype == "float64" and not x64:
        pytest.skip("float64 is off")
    rng = np.random.default_rng(0)
    start, matrix = rng.standard_normal(6), np.diag(np.arange(1.0, 7.0))
    optimizer = Adam()
    params = {"x": jnp.asarray(start, dtype), "n": jnp.arange(3)}
    state = optimizer.init(params)
    for _ in range(30):
        gradient = {"x": (scale * jnp.asarray(matrix, dtype) @ params["x"]).astype(dtype)}
        gradient["n"] = np.zeros(3, jax.dtypes.float0)
        params, state = take_step(optimizer, params, state, 0.0, gradient, 0.01)
    expected = adam_by_hand(lambda x: scale * matrix @ x, start, 0.01, 30)[-1]
    tolerance = {"float64": 1e-6, "float32": 1e-4, "bfloat16": 0.05}[dtype]
    np.testing.assert_allclose(np.asarray(params["x"], np.float64), expected, atol=tolerance)
    assert params["x"].dtype == dtype
    np.testing.assert_array_equal(params["n"], np.arange(3))


@pytest.mark.parametrize("distance", [10.0, 0.0353])
def test_the_better_of_two_rates_of_adam_counts(distance):
    """A far minimum is nearest after steps of 0.01, a near one is met more closely by steps of 0.001."""
    best, _ = AdamRunner(lambda p, _: jnp.abs(p - distance), 100, Cost()).best(jnp.zeros(()), jnp.zeros(1))
    runs = {
        rate: min(
            abs(at - distance)
            for at in adam_by_hand(lambda x: np.sign(x - distance), np.zeros(()), rate, 100)
        )
        for rate in (1e-3, 1e-2)
    }
    assert best == pytest.approx(min(runs.values()), rel=1e-2, abs=2e-6)
    assert min(runs, key=runs.get) == (1e-2 if distance > 1 else 1e-3)
    assert max(runs.values()) > 1.05 * best


def test_heavy_ball_is_that_of_numpy():
    x, speed, rates = np.array([1.0, -2.0]), np.zeros(2), np.array([0.1, 0.3])
    optimizer = HeavyBall(0.8, (jnp.asarray(rates),))
    params = jnp.asarray(x)
    state = optimizer.init(params)
    for _ in range(5):
        speed = 0.8 * speed + 2 * x
        x = x - 0.5 * rates * speed
        params, state = take_step(optimizer, params, state, 0.0, 2 * params, 0.5)
    np.testing.assert_allclose(params, x, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_adam_trains_half_precision(dtype):
    """Where one gradient is zero at first, ε must still be there."""
    x = np.random.default_rng(0).standard_normal((80, 3)).astype(np.float32)

    def loss(p, batch):
        out = (p["s"] * (batch[0].astype(dtype) @ p["w"])).astype(jnp.float32)
        return jnp.mean((out - batch[1]) ** 2)

    params = {"w": jnp.zeros((3, 1), dtype), "s": jnp.ones((), dtype)}
    batch = (x, x @ np.ones((3, 1), np.float32))
    reached, end = AdamRunner(loss, 200, Cost()).best(params, batch)
    assert reached < 0.05 * float(loss(params, batch))
    assert end["w"].dtype == dtype


def test_a_new_start_draws_weights_and_keeps_gains():
    params = {"w": jnp.zeros((300, 100)), "b": jnp.full(100, 9.0), "gain": jnp.full(100, 1.1)}
    params["n"] = jnp.int32(3)
    found = reinitialise(params, np.random.default_rng(0))
    assert float(jnp.std(found["w"])) == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert not np.any(found["b"])
    assert np.all(found["gain"] == 1)
    assert found["n"] == 3


@pytest.mark.parametrize(
    ("mean", "deviation", "gain"),
    [
        *((0.6, 0.0, True), (0.4, 0.0, False), (1.9, 0.0, True), (2.1, 0.0, False)),
        *((1.0, 0.3, True), (1.0, 0.37, False)),
    ],
)
def test_gains_are_told_from_biases_by_their_mean_and_spread(mean, deviation, gain):
    leaf = jnp.asarray(mean + deviation * np.array([-1.0, 1.0] * 50))
    found = reinitialise(leaf, np.random.default_rng(0))
    np.testing.assert_array_equal(found, np.full(100, float(gain)))


def test_a_perturbation_is_a_hundredth_of_the_parameters():
    for leaf, size in (
        (jnp.full(10_000, 3.0), 0.03),
        (jnp.zeros((100, 100)), 0.001),
        (jnp.zeros(10_000), 0.01),
    ):
        moved = np.asarray(perturb(leaf, np.random.default_rng(0)) - leaf)
        assert np.std(moved) == pytest.approx(size, rel=0.05)


@pytest.mark.slow
def test_without_optax_training_copies_with_adam_is_not_checked(monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    with pytest.raises(ImportError, match=r"hessian_probe\[optax\]"):
        Adam()
    x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
    data = (x, x @ np.ones((3, 1), np.float32))

    def apply(p, inputs):
        return inputs @ p

    found = hp.diagnose(
        lambda p, batch: jnp.mean((apply(p, batch[0]) - batch[1]) ** 2), jnp.zeros((3, 1)), data, apply=apply
    )
    assert any("hessian_probe[optax]" in item.needs for item in found.not_checked)
    assert found.findings


def test_a_trial_takes_forty_steps_and_adam_two_hundred():
    case = Case(lambda w: w**2, jnp.ones(()))
    assert (case.num_steps, case.num_adam_steps) == (40, 200)
