"""The events that `escape_events` reads from the state of `escape_saddles`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.escape_strategies import strategy_hook
from hessian_probe.training import escape_events, escape_saddles, read_events, write_events
from hessian_probe.training.escape_hook import HookOptions

optax = pytest.importorskip("optax")
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def run(loss, params, steps, optimizer):
    """Train in a scan; the parameters and the state at the end."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[0])(carry)


@pytest.mark.slow
def test_a_denied_step_along_curvature_does_not_end_the_products():
    """Curvature −1 in a leaf of zeros, which no restart moves; batches deny the first three steps off it."""

    def saddle(p, weight):
        return 1 + weight * (0.25 * p["y"][0] ** 4 - 0.5 * p["y"][0] ** 2) + 0.5 * p["x"][0] ** 2

    optimizer = escape_saddles(optax.sgd(0.1), saddle)
    params = {"x": jnp.zeros(1), "y": jnp.zeros(1)}
    state, denied = optimizer.init(params), 0

    @jax.jit
    def step(params, state, weight):
        value, gradient = jax.value_and_grad(saddle)(params, weight)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=weight)
        return optax.apply_updates(params, updates), state

    for _ in range(600):
        deny = float(state.pending_gain) > 0 and denied < 3
        denied += deny
        params, state = step(params, state, jnp.asarray(0.0 if deny else 1.0))
    rows = escape_events(state)
    assert denied == 3
    assert [row["kind"] for row in rows].count("escaped") == 1
    assert abs(float(params["y"][0])) > 0.9


@pytest.mark.parametrize("steepness", [0.0, 0.2])
def test_a_flat_floor_is_no_minimum_and_is_searched_for_less(steepness):
    """At rest on 1 + x²/2 + s·y²/2: where s = 0 later searches are random restarts without products."""

    def valley(p):
        return 1 + 0.5 * p[0] ** 2 + 0.5 * steepness * p[1] ** 2

    start = jnp.asarray([0.5, 0.5])
    rows = escape_events(run(valley, start, 6000, escape_saddles(optax.sgd(0.5), valley))[1])
    asked = [row for row in rows if row["kind"] not in ("none", "noisy") and row["step"] > 96]
    after = [row for row in asked[1:] if row["num_gradients"] > 1]
    assert len(after) >= 2
    if steepness:
        assert all(row["kind"] == "at_minimum" and row["num_hvps"] > 0 for row in after)
        assert all(row["num_gradients"] == 2 for row in after), "no restarts where all curvature is positive"
    else:
        assert all(row["kind"] == "flat" and row["num_hvps"] == 0 for row in after)
        assert all(row["num_gradients"] > 2 for row in after), "random restarts"
    assert not any(row["kind"] == "escaped" for row in rows)


@pytest.mark.slow
def test_an_escape_and_the_minimum_behind_it_are_told(tmp_path):
    """From the saddle of x⁴/4 − x²/2 + y² to a minimum, where the searches stop."""

    def well(p):
        return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2

    _, state = run(well, jnp.asarray([0.0, 0.5]), 3000, escape_saddles(optax.sgd(0.05), well))
    rows = escape_events(state)
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    first = next(row for row in rows if row["kind"] == "escaped")
    assert first["gain"] == pytest.approx(0.25, abs=0.02)
    assert first["lowest"] == pytest.approx(-1, rel=1e-3)
    last = [row for row in rows if row["kind"] == "at_minimum"][-1]
    assert last["lowest"] == pytest.approx(2, rel=1e-2)  # both curvatures are 2 at (±1, 0)
    assert "not negative" in last["evidence"]
    assert f"before update {float(state.next_probe):.0f}" in rows[-1]["evidence"]
    assert sum(row["num_hvps"] for row in rows) == int(state.num_hvps)
    assert sum(row["num_gradients"] for row in rows) == int(state.num_gradients)
    assert sum(row["num_losses"] for row in rows) == int(state.num_losses)
    assert sum(row["num_evaluations"] for row in rows) == int(state.num_evaluations)
    write_events(tmp_path / "log.jsonl", rows)
    back = read_events(tmp_path / "log.jsonl")
    assert len(back) == len(rows)
    for row, other in zip(rows, back, strict=True):
        assert row.keys() == other.keys()
        assert all(
            a == b or (math.isnan(a) and math.isnan(b))
            for a, b in zip(row.values(), other.values(), strict=True)
        )


def test_only_the_latest_rows_are_kept():
    """A constant loss and a hook of random perturbations: one row every two windows."""

    def flat(p):
        return jnp.sum(0 * p) + 1.0

    options = HookOptions(moments="keep", window=16)
    optimizer = strategy_hook(optax.sgd(0.05), flat, "perturbation", options=options)
    _, state = run(flat, jnp.zeros(2), 6000, optimizer)
    rows = escape_events(state)
    assert int(state.num_rows) > len(rows) == 32
    assert rows[-1]["step"] <= 6000
    assert np.all(np.diff([row["step"] for row in rows]) > 0)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="EscapeState"):
        escape_events(optax.sgd(0.1).init(jnp.zeros(2)))


def test_a_run_restored_from_orbax_goes_on_the_same(tmp_path):
    """Killed before the saddle is noticed; the state, its log too, comes back bit for bit."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    noisy = jax.random.normal(jax.random.key(3), (500,))

    def loss(p, shift):
        return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2 + 1e-4 * shift

    optimizer = escape_saddles(optax.adam(0.02), loss)

    def step(carry, shift):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, shift)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=shift)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, shifts: jax.lax.scan(step, carry, shifts)[0])
    params = jnp.asarray([0.0, 0.5])
    begun = train((params, optimizer.init(params)), noisy[:100])
    expected = train(begun, noisy[100:])
    assert int(expected[1].num_escapes) > 0
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", begun)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, begun))
    found = train(restored, noisy[100:])
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b, equal_nan=True)), found, expected)
    )
    assert repr(escape_events(found[1])) == repr(escape_events(expected[1]))
