"""The octopus function: smooth, with the saddles and the exponential descent that the paper proves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.problems import octopus

pytestmark = pytest.mark.float32

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
E = float(np.e)


@pytest.mark.parametrize("edge", [E, 2 * E])
@pytest.mark.parametrize("i", [0, 1])
def test_it_is_twice_differentiable_where_its_pieces_meet(edge, i):
    x = np.full(3, 0.3)
    x[:i] = 4 * E - 0.2
    low, high = (np.asarray(np.where(np.arange(3) == i, edge + h, x), FLOAT) for h in (-1e-3, 1e-3))
    for function in (octopus, jax.grad(octopus), jax.hessian(octopus)):
        np.testing.assert_allclose(function(low), function(high), atol=0.2)


@pytest.mark.parametrize("passed", [0, 1, 2, 3])
def test_a_saddle_has_one_way_out_and_the_end_is_a_minimum(passed):
    """Eigenvalues 2L and, but at the end, one −2γ; values −passed·ν."""
    x = np.zeros(3, FLOAT)
    x[:passed] = 4 * E
    expected = np.full(3, 2 * E)
    if passed < 3:
        expected[0] = -2
    np.testing.assert_allclose(np.linalg.eigvalsh(jax.hessian(octopus)(x)), expected, rtol=1e-5)
    assert float(jnp.linalg.norm(jax.grad(octopus)(x))) < 1e3 * EPS
    nu = float(octopus(np.zeros(1, FLOAT)) - octopus(np.full(1, 4 * E, FLOAT)))
    np.testing.assert_allclose(octopus(x), -passed * nu, atol=1e-4)


def test_gradient_descent_slows_down_fivefold_with_every_dimension():
    """The paper proves exponential growth; 5 per dimension for L = τ = e, γ = 1 and a rate of 1/(4L)."""

    @jax.jit
    def steps(x):
        rate = 1 / (4 * E)

        def going_on(state):
            return (jnp.max(jnp.abs(jnp.abs(state[0]) - 4 * E)) > 1e-2) & (state[1] < 3000)

        def move(state):
            return state[0] - jnp.asarray(rate, FLOAT) * jax.grad(octopus)(state[0]), state[1] + 1

        return jax.lax.while_loop(going_on, move, (x, 0))[1]

    counts = [int(steps(jnp.ones(d, FLOAT))) for d in (1, 2, 3, 4)]
    ratios = np.array(counts[1:]) / np.array(counts[:-1])
    assert counts[0] < 40
    assert np.all(ratios > 3)
    assert ratios[-1] > 4.5
