"""Moments after an escape, found by the parameters' own paths; and what an optimiser never moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.arrays import split
from hessian_probe.optimizers.untrained_params import moved_variables
from hessian_probe.training import adjust_moments, escape_saddles

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]
HELD = {"x": True, "y": False, "z": True}
PARAMS = {"x": jnp.asarray(0.0), "y": jnp.ones(3), "z": jnp.asarray([[1.0, 2.0]])}


def stepped(optimizer, params=PARAMS, steps=3):
    """The state after some steps of gradients of ones."""
    state = optimizer.init(params)
    for _ in range(steps):
        _, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    return state


def wells(p):
    """A saddle where weights are 0; minima where all are ±1."""
    return jnp.sum(0.25 * p["x"] ** 4 - 0.5 * p["x"] ** 2) + jnp.sum((p["y"] - 2) ** 2)


def labels(params):
    return {name: "held" if name == "x" else "moves" for name in params}


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "masked": optax.masked(optax.adam(0.1), {"x": False, "y": True, "z": True}),
    "partition": optax.partition({"held": optax.set_to_zero(), "moves": optax.adam(0.1)}, labels),
    "gathered": optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
    "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    "Adagrad": optax.adagrad(0.1, initial_accumulator_value=0.3),
    "schedule-free": optax.contrib.schedule_free_sgd(0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_reset_state_is_a_new_one_but_for_its_schedules(name):
    """Everything shaped like a parameter is what `init` makes; learning rates stay."""
    optimizer = OPTIMIZERS[name]
    state, new = stepped(optimizer), optimizer.init(PARAMS)
    found = adjust_moments(state, PARAMS, "reset", init=optimizer.init)
    assert jax.tree.structure(found) == jax.tree.structure(new)
    changed = 0
    triples = zip(*(jax.tree_util.tree_leaves_with_path(s) for s in (found, new, state)), strict=True)
    for (path, leaf), (_, fresh), (_, old) in triples:
        text = jax.tree_util.keystr(path)
        if "hyperparams" in text or not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        if any(text.endswith(f"['{key}']") for key in PARAMS):
            np.testing.assert_array_equal(leaf, fresh, err_msg=text)
            changed += bool(np.any(np.asarray(fresh) != np.asarray(old)))
    assert changed
    if name == "injected":
        assert float(found.hyperparams["learning_rate"]) == pytest.approx(0.1)


def test_a_single_scalar_parameter_leaves_the_rate_alone():
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.1)
    params = jnp.asarray(1.0)
    state = stepped(optimizer, params)
    found = adjust_moments(state, params, "reset")
    for name in ("learning_rate", "b1", "b2", "eps"):
        assert found.hyperparams[name] == state.hyperparams[name]
    assert float(found.inner_state[0].mu) == 0 != float(state.inner_state[0].mu)
    assert int(found.inner_state[0].count) == 0


def test_without_init_copies_of_the_parameters_follow_the_step():
    optimizer = optax.contrib.schedule_free_sgd(0.1)
    state = stepped(optimizer)
    step = jax.tree.map(lambda leaf: 2 * jnp.ones_like(leaf), PARAMS)
    found = adjust_moments(state, PARAMS, "reset", step)
    for new, old in zip(jax.tree.leaves(found.z), jax.tree.leaves(state.z), strict=True):
        np.testing.assert_allclose(new, old + 2, rtol=1e-6)


def test_an_init_of_another_optimiser_is_refused():
    with pytest.raises(ValueError, match="structure"):
        adjust_moments(stepped(optax.adam(0.1)), PARAMS, "reset", init=optax.sgd(0.1).init)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (optax.adam(0.1), (False, False, False)),
        (optax.set_to_zero(), (False, False, False)),
        (OPTIMIZERS["partition"], (True, False, False)),
        (optax.chain(OPTIMIZERS["partition"], optax.clip_by_global_norm(1.0)), (True, False, False)),
        (optax.chain(optax.sgd(0.1), optax.masked(optax.set_to_zero(), HELD)), (True, False, True)),
        (optax.sgd(optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)), (False, False, False)),
        (optax.MultiSteps(OPTIMIZERS["partition"], 2), (True, False, False)),
    ],
)
def test_what_is_frozen_is_read_off_the_program(optimizer, expected):
    layout, variables, rest = split(PARAMS)
    optimizer = optax.with_extra_args_support(optimizer)
    moved = moved_variables(optimizer, layout, variables, rest)
    assert tuple(name not in moved for name in layout.names) == expected


@pytest.mark.parametrize("held", [True, False])
def test_a_frozen_parameter_is_not_moved_off_a_saddle(held):
    """Along x it would go down; where x is held, only y is trained."""
    optimizer = optax.sgd(0.05)
    if held:
        optimizer = optax.partition({"held": optax.set_to_zero(), "moves": optimizer}, labels)
    optimizer = escape_saddles(optimizer, wells, window=32)

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(wells)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    params = {"x": jnp.zeros((2, 2)), "y": jnp.ones(3)}
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=400))
    (params, state), _ = run((params, optimizer.init(params)))
    np.testing.assert_allclose(params["y"], 2, atol=1e-3)
    np.testing.assert_allclose(jnp.abs(params["x"]), 0.0 if held else 1.0, atol=0 if held else 1e-2)
    assert int(state.num_probes) >= 1
    assert (int(state.num_escapes) == 0) == held
