"""Proposed learning rates and momenta: predictions against steps taken in NumPy, and what they bring."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.optimizers.propose_rate import GradientSpectrum, MomentumKernel

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]
STEPS = 12


def valley(size=10, condition=300.0):
    """A quadratic of known spectrum, rotated; its matrix and a start."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((size, size)))[0]
    matrix = turn * np.geomspace(1 / condition, 1, size) @ turn.T
    hessian = jnp.asarray(matrix)
    return (lambda x: 0.5 * x @ hessian @ x), matrix, rng.standard_normal(size)


def by_hand(matrix, x, rate, momentum, steps=STEPS):
    """Heavy ball from rest in NumPy; the change of the loss."""
    at, speed = x.copy(), np.zeros_like(x)
    for _ in range(steps):
        speed = momentum * speed + matrix @ at
        at = at - rate * speed
    return 0.5 * at @ matrix @ at - 0.5 * x @ matrix @ x


@pytest.mark.parametrize(("rate", "momentum"), [(0.1, 0.0), (0.5, 0.9), (3.9, 0.0)])
def test_predictions_and_trials_are_those_of_steps_by_hand(rate, momentum, x64):
    loss, matrix, x = valley()
    optimizer = optax.sgd(rate, momentum)
    params = jnp.asarray(x)
    found = hp.propose_rate(loss, params, optimizer=optimizer, opt_state=optimizer.init(params), steps=STEPS)
    rel = 1e-6 if x64 else 2e-3
    for setting in found.tried:
        expected = by_hand(matrix, x, setting.learning_rate, setting.momentum)
        assert setting.predicted == pytest.approx(expected, rel=rel)
        assert setting.loss - found.loss == pytest.approx(expected, rel=rel)
        limit = (2 + 2 * setting.momentum) / setting.learning_rate
        assert setting.ratio == pytest.approx(1 / limit, rel=1e-3)
    assert all(setting.ratio <= 0.5 + 1e-6 for setting in found.tried[1:])
    assert found.tried[1].ratio == pytest.approx(0.5, rel=1e-3) or momentum
    # Beside the gradients of the trials one with the linearisation, and a loss at the end of each.
    assert found.num_evaluations == STEPS * len(found.tried) + len(found.tried) + 1


def test_a_rate_that_is_too_small_and_one_that_diverges_are_mended():
    loss, _, x = valley()
    params = jnp.asarray(x)
    for rate in (1e-3, 2.05):
        optimizer = optax.sgd(rate)
        found = hp.propose_rate(loss, params, optimizer=optimizer, opt_state=optimizer.init(params))
        assert found.status == "better"
        assert found.proposed.loss < 0.1 * found.tried[0].loss
        assert found.proposed.name == "heavy ball"
        assert found.proposed.text in repr(found)


def test_where_nothing_is_better_the_optimiser_is_kept():
    """All curvatures alike: a step of 1/λ arrives at once."""
    optimizer, params = optax.sgd(1.0), jnp.ones(4)
    found = hp.propose_rate(
        lambda x: 0.5 * jnp.sum(x**2) + 1, params, optimizer=optimizer, opt_state=optimizer.init(params)
    )
    assert found.status == "no_better"
    assert found.proposed == found.tried[0]
    assert found.proposed.factor == 1
    assert found.tried[-1].factor == 0.25


def test_adam_keeps_its_momentum_and_batches_are_taken_in_turn():
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((96, 5)) * [1, 1, 3, 10, 0.1]
    target = inputs @ np.arange(1.0, 6.0)

    def loss(w, batch):
        return jnp.mean((batch[0] @ w - batch[1]) ** 2)

    data = [(inputs[i : i + 32], target[i : i + 32]) for i in (0, 32, 64)]
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)
    params = jnp.zeros(5)
    state = optimizer.init(params)
    for step in range(20):
        updates, state = optimizer.update(jax.grad(loss)(params, data[step % 3]), state, params)
        params = optax.apply_updates(params, updates)
    found = hp.propose_rate(loss, params, data, optimizer=optimizer, opt_state=state)
    assert [setting.name for setting in found.tried] == ["as it is", "another rate"]
    assert found.status == "better"
    assert found.proposed.momentum == pytest.approx(0.9, abs=1e-3)
    assert found.proposed.loss < found.tried[0].loss

    def trained(factor):  # the same by hand
        at, inner = params, state
        for step in range(found.steps):
            updates, inner = optimizer.update(jax.grad(loss)(at, data[step % 3]), inner, at)
            at = optax.apply_updates(at, jax.tree.map(lambda u: factor * u, updates))
        return float(np.mean([loss(at, batch) for batch in data]))

    for setting in found.tried:
        assert setting.loss == pytest.approx(trained(setting.factor), rel=1e-2)


def test_frozen_variables_stay_where_they_are():
    optimizer = optax.chain(optax.sgd(0.01), optax.masked(optax.set_to_zero(), {"a": False, "b": True}))
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}

    def loss(p):
        return jnp.sum(p["a"] ** 2) + 50 * jnp.sum(p["b"] ** 2)

    found = hp.propose_rate(loss, params, optimizer=optimizer, opt_state=optimizer.init(params))
    assert found.proposed.loss == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "params", "word"),
    [
        (optax.lion(0.1), jnp.ones(3), "proportional"),
        (optax.sgd(0.1), jnp.zeros(3), "gradient is zero"),
        (optax.sgd(0.1), jnp.full(3, jnp.nan), "NaN"),
    ],
)
def test_what_cannot_be_proposed_says_why(optimizer, params, word):
    found = hp.propose_rate(
        lambda x: jnp.sum(x**2), params, optimizer=optimizer, opt_state=optimizer.init(params)
    )
    assert found.status == "undetermined"
    assert word.lower() in found.evidence[0].lower()
    assert word.lower() in repr(found).lower()


def test_lengths_below_one_are_refused():
    optimizer, x = optax.sgd(0.1), jnp.ones(2)
    for name in ("steps", "max_hvps"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            hp.propose_rate(jnp.sum, x, optimizer=optimizer, opt_state=optimizer.init(x), **{name: 0})


def test_a_quadratic_without_curvature_falls_by_every_step():
    seen = GradientSpectrum(np.zeros(1), np.array([2.0]))
    assert seen.change(MomentumKernel(1.0, 0.0, 0.0), 0.5, 3) == pytest.approx(-0.5 * 3 * 4)


@pytest.mark.slow
def test_a_diagnosis_of_slow_training_reports_it():
    loss, _, x = valley()
    optimizer, params = optax.sgd(1e-3), jnp.asarray(x)
    train = np.random.default_rng(2).standard_normal((64, 3))
    found = hp.diagnose(
        lambda p, batch: loss(p) + 0 * jnp.mean(batch),
        params,
        train,
        optimizer=optimizer,
        opt_state=optimizer.init(params),
    )
    assert found.findings[0].cause == "slow"
    text = dict(found.measured)["learning rate and momentum from the spectrum"]
    assert "heavy ball" in text
    assert "as it is" in text


def test_without_curvature_the_rate_grows_a_thousandfold():
    optimizer, params = optax.sgd(1e-3), jnp.ones(3)
    found = hp.propose_rate(
        lambda x: jnp.sum(x), params, optimizer=optimizer, opt_state=optimizer.init(params), steps=2
    )
    assert found.tried[1].factor == 1024


@pytest.mark.parametrize(("rate", "status"), [(0.08775, "better"), (0.09163, "no_better")])
def test_a_setting_is_better_by_a_hundredth_of_the_change(rate, status):
    """One step of rate 0.1 ends at 0, one of 0.08775 at 1.5 % of the loss, one of 0.09163 at 0.7 %."""
    optimizer, params = optax.sgd(rate), jnp.asarray(1.0)
    found = hp.propose_rate(
        lambda x: 5 * x**2, params, optimizer=optimizer, opt_state=optimizer.init(params), steps=1
    )
    assert found.status == status


def test_a_proposed_rate_keeps_the_sharpness_at_half_of_its_limit():
    """Nearly all of the gradient lies along the flat direction, where the longest step is the best."""
    curvature, params, optimizer = jnp.array([1.0, 0.01]), jnp.array([1e-3, 1.0]), optax.sgd(0.01)
    found = hp.propose_rate(
        lambda x: 0.5 * jnp.sum(curvature * x**2),
        params,
        optimizer=optimizer,
        opt_state=optimizer.init(params),
        steps=4,
    )
    assert found.tried[1].ratio == pytest.approx(0.5, rel=1e-3)


def test_the_run_from_the_gradient_takes_24_products():
    """With 40 curvatures, each seen by the gradient, the run does not end early; sharpness costs the same."""
    curvatures, optimizer = jnp.linspace(1.0, 40.0, 40), optax.sgd(1e-3)

    def loss(x):
        return 0.5 * jnp.sum(curvatures * x**2)

    def spent(**options):
        state = optimizer.init(jnp.ones(40))
        return hp.propose_rate(
            loss, jnp.ones(40), optimizer=optimizer, opt_state=state, steps=1, **options
        ).num_hvps

    assert spent() - spent(max_hvps=1) == 23
