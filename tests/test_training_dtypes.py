"""Dtypes in the hook: parameters of several dtypes keep them, and so do updates and state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.arrays import split
from hessian_probe.training import escape_saddles
from hessian_probe.training.escape_hook import LocalLoss

optax = pytest.importorskip("optax")
# The hook itself mixes integers and reals.
pytestmark = [pytest.mark.any_promotion, pytest.mark.one_precision]


def saddle(p):
    """Minima −1/4 at coarse = ±1; a saddle at the origin."""
    x, y = p["coarse"].astype(jnp.float32), p["fine"]
    return 0.25 * jnp.sum(x**4) - 0.5 * jnp.sum(x**2) + jnp.sum(y**2)


def rest():
    """An optimiser of no arithmetic: the parameters rest, so that only the hook moves them."""

    def update(updates, state, params=None):
        return jax.tree.map(jnp.zeros_like, updates), state

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def test_an_escape_keeps_the_dtypes_of_parameters_and_state():
    params = {"coarse": jnp.zeros(3, jnp.bfloat16), "fine": jnp.zeros(2, jnp.float32)}
    optimizer = escape_saddles(rest(), saddle, window=32)
    gradient = jax.grad(saddle)(params)

    @jax.jit
    def run(carry):
        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(gradient, state, params, value=saddle(params))
            assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
            return (jax.tree.map(jnp.add, params, updates), state), state.num_escapes

        return jax.lax.scan(step, carry, None, length=160)

    (moved, state), escapes = run((params, optimizer.init(params)))
    assert int(escapes[-1]) >= 1
    assert moved["coarse"].dtype == jnp.bfloat16
    assert moved["fine"].dtype == jnp.float32
    assert float(jnp.max(jnp.abs(moved["coarse"]))) > 0.3
    assert float(saddle(moved)) < float(saddle(params))
    assert np.asarray(state.inner["coarse"]).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("params", "loss", "coarsest"),
    [
        (jnp.float32, jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.float32, jnp.float16, jnp.float16),
        (jnp.float64, jnp.float64, jnp.float64),
    ],
)
def test_rounding_is_that_of_the_parameters_or_of_the_loss_whichever_is_coarser(params, loss, coarsest):
    layout, x, rest = split(jnp.ones(3, params))
    local = LocalLoss(lambda p: jnp.sum(p).astype(loss), layout, x, rest, None, jnp.float32)
    assert local.eps == float(jnp.finfo(coarsest).eps)
