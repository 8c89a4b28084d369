"""The events that `escape_events` reads from the state of `escape_saddles`."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.points.sphere_search import MOST_EVALUATIONS
from hessian_probe.points.thresholds import SPHERE_CHECKS, SPHERE_RADII, SPHERE_STEPS
from hessian_probe.training import escape_events, escape_saddles, read_events, write_events

optax = pytest.importorskip("optax")
pytestmark = pytest.mark.float32


def run(loss, params, steps, optimizer):
    """Train in a scan; the parameters and the state at the end."""

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return (optax.apply_updates(params, updates), state), None

    carry = (params, optimizer.init(params))
    return jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps)[0])(carry)


def well(p):
    return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2


def test_an_escape_and_the_minimum_behind_it_are_told(tmp_path):
    """From the saddle of x⁴/4 − x²/2 + y² to a minimum, where the searches grow rare."""
    _, state = run(well, jnp.asarray([0.0, 0.5]), 1500, escape_saddles(optax.sgd(0.05), well, max_share=1.0))
    rows = escape_events(state)
    steps = [row["step"] for row in rows]
    assert steps == sorted(steps)
    assert {tuple(row) for row in rows} == {("step", "kind", "value", "evidence", "num_gradients", "gain")}
    first = next(row for row in rows if row["kind"] == "escaped")
    assert first["step"] == int(state.last_step)
    assert first["gain"] == pytest.approx(float(state.last_gain))
    assert 0.05 < first["gain"] <= 0.2501
    assert first["num_gradients"] >= SPHERE_STEPS + 2 * SPHERE_CHECKS
    after = [row for row in rows if row["step"] > first["step"]]
    assert len(after) >= 2
    assert {row["kind"] for row in after} <= {"flat", "slow"}
    assert all(row["gain"] == 0 and row["num_gradients"] <= MOST_EVALUATIONS for row in after)
    assert f"{float(state.next_probe):.0f}" in rows[-1]["evidence"]
    assert int(state.search_sphere) == len(SPHERE_RADII), "no search goes on at the end"
    assert sum(row["num_gradients"] for row in rows) == int(state.num_gradients)
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
    """On a slope without end, with an optimiser that rests, every search finds a step, and another begins."""

    def slope(p):
        return p[0]

    optimizer = escape_saddles(optax.sgd(0.0), slope, window=32)
    _, state = run(slope, jnp.zeros(2), 4000, optimizer)
    rows = escape_events(state)
    assert int(state.num_rows) > len(rows) == 32
    assert rows[-1]["step"] <= 4000
    assert np.all(np.diff([row["step"] for row in rows]) > 0)


def test_a_state_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="EscapeState"):
        escape_events(optax.sgd(0.1).init(jnp.zeros(2)))


@pytest.mark.any_promotion
def test_a_run_restored_from_orbax_goes_on_the_same(tmp_path):
    """Killed while a search goes on; the state, its log too, comes back bit for bit."""
    checkpoint = pytest.importorskip("orbax.checkpoint")
    noisy = jax.random.normal(jax.random.key(3), (500,))

    def loss(p, shift):
        return well(p) + 1e-4 * shift

    optimizer = escape_saddles(optax.adam(0.02), loss)

    def step(carry, shift):
        params, state = carry
        value, gradient = jax.value_and_grad(loss)(params, shift)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=shift)
        return (optax.apply_updates(params, updates), state), None

    train = jax.jit(lambda carry, shifts: jax.lax.scan(step, carry, shifts)[0])
    params = jnp.asarray([0.0, 0.5])
    begun = train((params, optimizer.init(params)), noisy[:140])
    expected = train(begun, noisy[140:])
    assert int(expected[1].num_escapes) > 0
    with checkpoint.StandardCheckpointer() as saver:
        saver.save(tmp_path / "state", begun)
        saver.wait_until_finished()
        restored = saver.restore(tmp_path / "state", jax.tree.map(jnp.zeros_like, begun))
    found = train(restored, noisy[140:])
    assert jax.tree.all(
        jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b, equal_nan=True)), found, expected)
    )
    assert repr(escape_events(found[1])) == repr(escape_events(expected[1]))
