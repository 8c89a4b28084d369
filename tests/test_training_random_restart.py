"""Random restarts: they leave saddles that derivatives do not show, and no valley and no minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.training import escape_events, escape_saddles
from hessian_probe.training.random_restart import HOPE, HOPE_BEYOND, LONGEST, random_restart

pytestmark = pytest.mark.float32

FLOAT = np.asarray(jnp.zeros(())).dtype
DEPTH, WIDTH = 6, 4
LEARNED, MISSING = 2.0, 1.0


def layers(p):
    """Six layers learn diag(2, 1, 0, 0)."""
    product = p[0]
    for layer in p[1:]:
        product = layer @ product
    target = jnp.diag(jnp.asarray([LEARNED, MISSING, 0, 0], product.dtype))
    return 0.5 * jnp.sum((product - target) ** 2)


def half_learned(small=0.01):
    """The first singular value is learned, the rest is small: slope and curvature of the second are nil."""
    draw = np.random.default_rng(0).standard_normal((DEPTH, WIDTH, WIDTH)) * small
    draw[:, 0, :], draw[:, :, 0] = 0, 0
    draw[:, 0, 0] = LEARNED ** (1 / DEPTH)
    return tuple(jnp.asarray(layer, FLOAT) for layer in draw)


def displacement(x, seed=0, share=1.2):
    rng = np.random.default_rng(seed)
    draws = [rng.standard_normal(leaf.shape) for leaf in x]
    lengths = [share * np.linalg.norm(leaf) / np.linalg.norm(d) for leaf, d in zip(x, draws, strict=True)]
    return tuple(jnp.asarray(s * d, FLOAT) for s, d in zip(lengths, draws, strict=True))


@pytest.fixture(scope="module")
def compiled():
    """One program for every call on one loss."""
    programs = {}

    def call(loss, x, step, enough=0.0, beyond=0.0, go=True):
        run = programs.setdefault(
            loss, jax.jit(lambda x, step, *rest: random_restart(loss, x, loss(x), step, *rest))
        )
        return run(x, step, jnp.asarray(enough, FLOAT), jnp.asarray(beyond, FLOAT), jnp.asarray(go))

    return call


def test_a_restart_leaves_a_saddle_whose_derivatives_are_lost_in_rounding(compiled):
    x = half_learned()
    before = float(layers(x))
    np.testing.assert_allclose(before, 0.5 * MISSING**2, rtol=1e-5)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.grad(layers)(x)) < 1e-5
    found = [compiled(layers, x, displacement(x, seed), enough=0.01) for seed in range(5)]
    assert sum(bool(f.leaves) for f in found) >= 4
    for f in found:
        ends = layers(tuple(a + b for a, b in zip(x, f.step, strict=True)))
        np.testing.assert_allclose(ends, f.value, rtol=1e-3, atol=1e-5)
        if f.leaves:
            assert float(f.value) < before - 0.01
        assert int(f.num_passes) <= 2 * LONGEST
        assert int(f.num_losses) >= 2 * int(f.num_passes)


VALLEY = 10.0 ** -np.linspace(0, 4, 12)


def valley(p):
    """A slow valley: curvatures from 1 to 1e-4, the bottom at 0."""
    return jnp.sum(jnp.asarray(VALLEY, p[0].dtype) * p[0] ** 2)


def test_a_valley_is_left_to_the_optimiser(compiled):
    """Line searches lead down there, but as far without the displacement."""
    x = (jnp.asarray(10.0 * (VALLEY < 1e-2), FLOAT),)
    for seed in range(3):
        assert not compiled(valley, x, displacement(x, seed, 0.3)).leaves


def test_a_minimum_is_kept_and_soon_given_up(compiled):
    x = (jnp.asarray([1.0, 2.0, -1.0], FLOAT),)

    def bowl(p):
        return jnp.sum(jnp.cosh(jnp.asarray([1.0, 3.0, 5.0], FLOAT) * (p[0] - x[0])))

    found = compiled(bowl, x, displacement(x))
    assert not found.leaves
    assert int(found.num_passes) <= HOPE


def test_what_curvature_gained_must_be_surpassed_at_once(compiled):
    x = half_learned()
    found = compiled(layers, x, displacement(x), enough=0.01, beyond=0.499)
    assert not found.leaves
    assert int(found.num_passes) <= HOPE_BEYOND


def test_no_restart_costs_nothing(compiled):
    x = half_learned()
    found = compiled(layers, x, displacement(x), go=False)
    assert not found.leaves
    assert int(found.num_passes) == int(found.num_losses) == 0


@pytest.mark.slow
@pytest.mark.any_promotion
def test_the_hook_restarts_where_it_finds_nothing_else():
    """Descent alone would take 1e8 steps; in float64 the curvature can still be seen."""
    optax = pytest.importorskip("optax")
    optimizer = escape_saddles(optax.sgd(0.01), layers)

    @jax.jit
    def run(carry):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(layers)(params)
            updates, state = optimizer.update(gradient, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, carry, None, length=400)

    params = half_learned()
    (_, state), losses = run((params, optimizer.init(params)))
    assert float(losses[-1]) < 0.1
    assert int(state.num_escapes) >= 1
    assert np.all(np.isfinite(losses))


def basins(depth):
    """A round bowl of depth 1 in `bowl`, and two wells of `depth` on both sides of `place`.

    Near the start the loss does not depend on `place`; a random restart moves it by 1.2 into a well.
    """

    def loss(p):
        t = jnp.clip((jnp.abs(p["place"] - 1) - 0.6) / 0.4, 0, 1)
        return 0.5 * jnp.sum(p["bowl"] ** 2) - depth * t**2 * (3 - 2 * t)

    return loss


@pytest.mark.any_promotion
@pytest.mark.parametrize(("depth", "enough"), [(0.5, False), (1.6, True)])
def test_a_restart_must_gain_twice_what_line_searches_gain_alone(depth, enough):
    """Line searches gain 1 without a displacement; with one they gain 1.5, which is too little, or 2.6."""
    optax = pytest.importorskip("optax")
    loss = basins(depth)
    optimizer = escape_saddles(optax.sgd(0.0), loss)
    params = {"bowl": jnp.asarray([1.0, 1.0], FLOAT), "place": jnp.asarray(1.0, FLOAT)}
    value, gradient = loss(params), jax.grad(loss)(params)

    @jax.jit
    def run(state):
        def step(state, _):
            _, state = optimizer.update(gradient, state, params, value=value)
            return state, state.num_escapes

        return jax.lax.scan(step, state, None, length=120)

    state, escaped = run(optimizer.init(params))
    restarts = [row for row in escape_events(state) if row["num_gradients"] > 2]
    assert restarts
    assert bool(escaped[-1] > 0) == enough
