"""Leaves that an optimiser moves up their gradient, against transformations whose sign is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators.hessian import hessian
from hessian_probe.optimizers.uphill import uphill_leaves

optax = pytest.importorskip("optax")
contrib = optax.contrib
pytestmark = [pytest.mark.any_promotion, pytest.mark.one_precision]  # both dtypes in one run
ALL = {"b": True, "c": True, "w": True}
GROUPS = {"b": "one", "c": "two", "w": "one"}
WARM = optax.warmup_cosine_decay_schedule(0.0, 0.05, 5, 20)
NORMAL = optax.chain(contrib.normalize(), optax.sgd(0.05))

DESCEND = {
    "gradient descent": optax.sgd(0.1),
    "momentum": optax.sgd(0.05, 0.95),
    "Nesterov": optax.sgd(0.05, 0.9, nesterov=True),
    "Adam": optax.adam(1e-2),
    "AdamW": optax.adamw(1e-2, weight_decay=0.3),
    "RMSProp, centred": optax.rmsprop(1e-2, centered=True, momentum=0.9),
    "Adagrad": optax.adagrad(0.1),
    "Lion": optax.lion(1e-3),
    "LAMB": optax.lamb(1e-2),
    "LARS": optax.lars(1e-2, weight_decay=0.1),
    "Adafactor": optax.adafactor(1e-2),
    "noisy": optax.noisy_sgd(1e-2, key=0),
    "clipped norm": optax.chain(optax.clip_by_global_norm(0.1), optax.adam(1e-2)),
    "clipped entries": optax.chain(optax.clip(1e-3), optax.sgd(0.1, 0.9)),
    "schedule from 0 to 0": optax.sgd(WARM, 0.9),
    "4 gradients a step": optax.MultiSteps(optax.adam(1e-2), 4),
    "masked": optax.masked(optax.adam(1e-2), ALL),
    "two groups": optax.multi_transform({"one": optax.adam(1e-2), "two": optax.sgd(0.1)}, GROUPS),
    "frozen group": optax.multi_transform({"one": optax.adam(1e-2), "two": optax.set_to_zero()}, GROUPS),
    "sharpness-aware": contrib.sam(optax.sgd(1e-3), NORMAL, sync_period=3),
    "schedule-free": contrib.schedule_free_adamw(1e-2),
    "mechanic": contrib.mechanize(optax.sgd(0.1)),
    "limited memory": optax.chain(optax.scale_by_lbfgs(), optax.scale(-0.1)),
}
# The leaves that climb, and by what multiple of the gradient where it is known.
CLIMB = {
    "masked": (optax.masked(optax.adam(1e-2), ALL | {"b": False, "c": False}), "bc", 1.0),
    "no rate": (optax.scale(0.02), "bcw", 0.02),
    "no sign": (optax.chain(optax.trace(0.9), optax.scale(0.01)), "bcw", 0.01),
    "Adam alone": (optax.scale_by_adam(), "bcw", None),
    "one group": (optax.multi_transform({"one": optax.sgd(0.1), "two": optax.scale(0.1)}, GROUPS), "c", 0.1),
    "signed twice": (optax.chain(optax.sgd(0.1), optax.scale(-1.0)), "bcw", 0.1),
    "no flip": (optax.scale_by_learning_rate(0.01, flip_sign=False), "bcw", 0.01),
    "gathered": (optax.MultiSteps(optax.scale(0.01), 4), "bcw", 0.01),
    "signs": (optax.lion(-1e-3), "bcw", None),
}


def network(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((40, 5)), dtype)
    y = (x.sum(1) > 0).astype(dtype)
    params = {"w": jnp.asarray(0.3 * rng.standard_normal((5, 3)), dtype), "b": jnp.zeros(3, dtype)}
    params["c"] = jnp.zeros((), dtype)

    def loss(p, batch):
        out = jnp.tanh(batch[0] @ p["w"] + p["b"]).sum(1) + p["c"]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(out, batch[1]))

    return loss, params, (x, y)


def trained(loss, params, data, optimizer, steps):
    """The parameters and the state after steps on single batches, which momentum may point away from."""

    @jax.jit
    def step(params, state, batch):
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for index in range(steps):
        rows = np.arange(40) % 4 == index % 4
        params, state = step(params, state, jax.tree.map(lambda leaf, some=rows: leaf[some], data))
    return params, state


def measured(optimizer, steps, dtype=jnp.float32):
    loss, params, data = network(dtype)
    params, state = trained(loss, params, data, optimizer, steps)
    return uphill_leaves(hessian(loss, params, data, check=False), optimizer, state)


DTYPES = [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)]


def first(names, count):
    """All names; those after the first ones are slow."""
    return [*names][:count] + [pytest.param(name, marks=pytest.mark.slow) for name in [*names][count:]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", first(DESCEND, 5))
def test_optimisers_that_descend_climb_in_no_leaf(name, dtype):
    for steps in (0, 1, 7):
        assert measured(DESCEND[name], steps, dtype) == (), steps


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", first(CLIMB, 5))
def test_leaves_that_climb_are_named_with_the_multiple_of_their_gradient(name, dtype):
    optimizer, leaves, factor = CLIMB[name]
    for steps in (0, 8):
        found = measured(optimizer, steps, dtype)
        assert [leaf.name for leaf in found] == [f"params['{leaf}']" for leaf in leaves]
        for leaf in found:
            assert leaf.factor == pytest.approx(factor, rel=1e-4) if factor else leaf.factor > 0


def test_momentum_that_points_up_is_none_and_a_mixing_preconditioner_is_none():
    optimizer = optax.sgd(0.1, momentum=0.99)
    loss, params, data = network()
    _, state = trained(loss, params, data, optimizer, 1)
    against = jax.tree.map(lambda leaf: -1e4 * leaf if hasattr(leaf, "dtype") else leaf, state)
    op = hessian(loss, params, data, check=False)
    updates, _ = optimizer.update(jax.grad(loss)(params, data), against, params)
    assert float(jnp.vdot(updates["w"], jax.grad(loss)(params, data)["w"])) > 0
    assert uphill_leaves(op, optimizer, against) == ()

    def mix(gradient, state, params=None):  # −[[1, c], [c, 1 + c²]] is negative definite, and turns one leaf
        one, other = gradient["b"][0], gradient["c"]
        c = -5.0 * one / other
        first = jnp.zeros(3).at[0].set(-(one + c * other))
        return {"b": first, "c": -(c * one + (1 + c * c) * other), "w": 0.0 * gradient["w"]}, state

    mixed = optax.GradientTransformation(lambda params: (), mix)
    assert uphill_leaves(op, mixed, ()) == ()


@pytest.mark.slow
def test_an_optimiser_that_needs_more_is_not_checked():
    loss, params, data = network()
    optimizer = optax.lbfgs()  # its line search wants the loss as a function
    given = {"optimizer": optimizer, "opt_state": optimizer.init(params)}
    assert uphill_leaves(hessian(loss, params, data, check=False), optimizer, given["opt_state"]) is None
    found = hp.diagnose(loss, params, data, **given)
    assert any(item.causes == ("uphill",) for item in found.not_checked)


def test_a_run_that_is_not_finite_still_shows_its_rule():
    loss, params, data = network()
    lost = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    optimizer = CLIMB["masked"][0]
    found = hp.diagnose(loss, lost, data, optimizer=optimizer, opt_state=optimizer.init(params))
    assert [f.cause for f in found.findings] == ["uphill"]
    healthy = optax.adam(1e-2)
    found = hp.diagnose(loss, lost, data, optimizer=healthy, opt_state=healthy.init(params))
    assert [f.cause for f in found.findings] == ["divergence"]


@pytest.mark.slow
def test_a_training_that_climbs_is_told_to_mend_its_optimiser_not_its_rate():
    loss, params, data = network()
    optimizer = CLIMB["masked"][0]
    losses = []
    for steps in (0, 5, 10, 20, 40):
        end, state = trained(loss, params, data, optimizer, steps)
        losses.append(float(loss(end, data)))
    assert losses[-1] > 2 * losses[0]
    given = {"optimizer": optimizer, "opt_state": state}
    found = hp.diagnose(loss, end, data, history={"loss": losses}, **given)
    first = found.findings[0]
    assert (first.cause, first.remedy, first.factor) == ("uphill", "negate_updates", None)
    assert first.number == pytest.approx(1.0)
    steps = {"divergence", "oscillation", "slow", "noise", "model_bias"}
    assert not steps & {f.cause for f in found.findings}
    judged = hp.stability(loss, end, data, **given)
    assert judged.status == "undetermined"
    assert [leaf.name for leaf in judged.uphill] == ["params['b']", "params['c']"]
    assert "params['b'] and params['c'] move by +1.0 times their gradient" in judged.evidence[0]
