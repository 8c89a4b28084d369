"""The steps that `benchmarks.escape` compares with those of `escape_saddles`, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.spectrum.traced_krylov import krylov_space

optax = pytest.importorskip("optax")
strategies = pytest.importorskip("benchmarks.escape_strategies")
FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]


def space_of(matrix, seed=0):
    matrix = jnp.asarray(matrix, FLOAT)
    start = jax.random.normal(jax.random.key(seed), (len(matrix),), FLOAT)
    return krylov_space(lambda v: (matrix @ v[0],), (start,), len(matrix))


def steps_of(name, matrix, gradient, longest):
    """Candidate steps as vectors."""
    space, gradient = space_of(matrix), (jnp.asarray(gradient, FLOAT),)
    slopes, outside = strategies.projected(space, gradient)
    found = strategies.NEWTON[name](space, slopes, jnp.asarray(longest, FLOAT))
    steps = [strategies.displacement(space, a, b, outside)[0] for a, b in zip(*found, strict=True)]
    return np.asarray(steps, np.float64), float(space.norm)


def test_a_gradient_is_its_part_inside_and_its_part_outside():
    gradient = (jnp.asarray(np.random.default_rng(0).standard_normal(6), FLOAT),)
    space = space_of(np.diag([-3.0, 1.0, 1.0, 1.0, 1.0, 1.0]))  # a Krylov space of two dimensions
    slopes, outside = strategies.projected(space, gradient)
    whole = strategies.displacement(space, slopes, jnp.asarray(1.0, FLOAT), outside)
    np.testing.assert_allclose(whole[0], gradient[0], atol=1e3 * EPS)
    assert float(jnp.linalg.norm(outside[0])) > 0.1


def model(matrix, gradient, sigma, step):
    """The cubic model, on the host."""
    return gradient @ step + 0.5 * step @ matrix @ step + sigma / 3 * np.linalg.norm(step) ** 3


@pytest.mark.parametrize("hard", [False, True])
def test_the_cubic_step_minimises_its_model(hard):
    """Against steps near it, hard case (no gradient along the lowest eigenvector) included."""
    matrix = np.diag([-2.0, 0.5, 1.0, 3.0])
    gradient = np.array([0.0 if hard else 0.3, 0.2, -0.1, 0.4])
    longest = 2.0
    steps, norm = steps_of("cubic_newton", matrix, gradient, longest)
    sigmas = norm / longest * 2.0 ** np.arange(len(steps))
    rng = np.random.default_rng(0)
    for number in (0, 3, 7):
        step = steps[number]
        reached = model(matrix, gradient, sigmas[number], step)
        near = step + 0.02 * np.linalg.norm(step) * rng.standard_normal((500, 4))
        others = [model(matrix, gradient, sigmas[number], other) for other in near]
        assert reached <= min(others) + 1e-3 * abs(reached)
        assert reached < 0


def test_the_saddle_free_step_turns_signs():
    matrix = np.diag([-2.0, 0.5, 1.0, 4.0])
    gradient = np.array([0.2, 0.1, -0.1, 0.4])
    steps, _ = steps_of("saddle_free_newton", matrix, gradient, 10.0)
    expected = -gradient / np.abs(np.diag(matrix))
    np.testing.assert_allclose(steps[1], expected, rtol=1e-3)
    np.testing.assert_allclose(steps[0], 2 * expected, rtol=1e-3)


@pytest.mark.parametrize("strategy", ["cubic_newton", "perturbation"])
def test_each_leaves_a_saddle_inside_scan(strategy):
    """A saddle with eigenvalues −1 and 2; the saddle-free step needs a gradient and cannot leave it."""

    def well(p):
        return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2

    optimizer = strategies.strategy_hook(optax.sgd(0.05), well, strategy)

    @jax.jit
    def run(carry):
        def step(carry, _):
            params, state = carry
            value, gradient = jax.value_and_grad(well)(params)
            updates, state = optimizer.update(gradient, state, params, value=value)
            return (optax.apply_updates(params, updates), state), value

        return jax.lax.scan(step, carry, None, length=600)

    params = jnp.asarray([0.0, 0.5], FLOAT)
    (params, state), losses = run((params, optimizer.init(params)))
    assert losses[-1] < -0.2
    assert int(state.num_probes) >= 1
    assert (int(state.num_hvps) > 0) == (strategy != "perturbation")
