"""Losses that compute in less than the precision of their parameters: labels against the float64 truth."""

import itertools
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import hessian_probe as hp
from hessian_probe.operators import tracing
from hessian_probe.programs.inspect import ProgramFacts

WIDTHS = (4, 5, 3)
NO_TYPE = {"undetermined", "degenerate"}
SHARES = (-0.5, -0.2, -0.03, -3e-3, -1e-3, 1e-3, 3e-3, 0.03, 0.2)
# eps, and the share of ‖H‖ from which on a curvature is well above what is measured of rounding
KINDS = {
    "tf32": (2.0**-10, 0.1),
    "bfloat16": (2.0**-7, 0.3),
    "float16": (2.0**-10, 0.1),
    "bfloat16 into float32": (2.0**-7, 0.3),
}

# Older releases of JAX keep it among their experiments.
x64_in_here = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64


def rounded(kind, a):
    if kind == "tf32":
        return lax.reduce_precision(a, exponent_bits=8, mantissa_bits=10)
    return a.astype(kind.split()[0])


def product(kind, a, b):
    if kind is None:
        return a @ b
    wide = jnp.float32 if kind.endswith("float32") else None
    return jnp.matmul(rounded(kind, a), rounded(kind, b), preferred_element_type=wide)


def tilted(kind, params, data):
    """A network's loss, tilted until its gradient vanishes at p₀ and bent by μ: H = H_network + μI."""
    start, slope, bend, x, y = data
    h = x
    for weight, bias in params:
        out = product(kind, h, weight)
        out = out + bias[None].astype(out.dtype)
        h = jnp.tanh(out)
    loss = 0.5 * jnp.mean(jnp.sum((out.astype(y.dtype) - y) ** 2, axis=1))
    away = jax.tree.map(lambda a, b: a - b, params, start)
    linear = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(away), jax.tree.leaves(slope), strict=True))
    return loss - linear + 0.5 * bend * sum(jnp.vdot(a, a) for a in jax.tree.leaves(away))


@lru_cache
def network(seed):
    """Parameters, tilt and samples, and the network's own eigenvalues, in float64 by the dense Hessian."""
    rng = np.random.default_rng(seed)
    with x64_in_here(True):
        params = [
            (1.5 * rng.standard_normal((a, b)) / np.sqrt(a), 0.1 * rng.standard_normal(b))
            for a, b in itertools.pairwise(WIDTHS)
        ]
        params = jax.tree.map(lambda a: a.astype(np.float32).astype(np.float64), params)
        x, y = rng.standard_normal((40, WIDTHS[0])), rng.standard_normal((40, WIDTHS[-1]))
        none = jax.tree.map(np.zeros_like, params)
        flat, unravel = ravel_pytree(params)

        def loss(p, data):
            return tilted(None, unravel(p), data)

        derivatives = jax.jit(lambda *at: (jax.grad(loss)(*at), jax.hessian(loss)(*at)))
        slope, hessian = map(np.asarray, derivatives(flat, (params, none, np.zeros(()), x, y)))
        return (params, jax.tree.map(np.asarray, unravel(slope)), x, y), np.linalg.eigvalsh(hessian)


def at_share(seed, share):
    """Parameters and data whose lowest eigenvalue is `share` of the network's norm."""
    (params, slope, x, y), eigenvalues = network(seed)
    bend = np.asarray(share * np.max(np.abs(eigenvalues)) - eigenvalues[0])
    single = jax.tree.map(lambda a: np.asarray(a, np.float32), (params, slope, bend, x, y))
    return single[0], single


# Parameters are float32 in both runs.
@pytest.mark.float32
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", ["bfloat16", "float16", *(pytest.param(k, marks=pytest.mark.slow) for k in list(KINDS)[::3])]
)
def test_curvature_below_the_rounding_inside_the_loss_is_no_sign(kind, seed):
    """λ_min from well above to well below the rounding: never a wrong label, and the clear ones decided."""
    eps, clear = KINDS[kind]
    loss = partial(tilted, kind)
    norm = np.max(np.abs(network(seed)[1]))
    for share in SHARES:
        params, data = at_share(seed, share)
        point = hp.classify(loss, params, data)
        truth = "saddle" if share < 0 else "minimum"
        assert point.label in {truth, *NO_TYPE}, (share, point)
        assert point.zero_band > eps * norm, (share, point)
        if abs(share) > clear:
            assert point.label == truth, (share, point)


def quadratic(kind, p, data):
    matrix, centre = data
    away = (rounded(kind, p) - rounded(kind, centre)).astype(kind)
    return 0.5 * jnp.sum(away * (rounded(kind, matrix) @ away)).astype(jnp.float32)


@pytest.mark.float32
@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("n", [4, 40, pytest.param(300, marks=pytest.mark.slow)])
def test_quadratic_forms_far_from_the_origin(kind, n):
    """½(x−c)ᵀA(x−c) with a computed entirely in half precision: rounding of x alone moves the gradient."""
    rng = np.random.default_rng(n)
    vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
    centre = rng.standard_normal(n).astype(np.float32)
    loss = partial(quadratic, kind)
    for share in (-0.5, -0.1, -0.01, -1e-3, 1e-3, 0.01, 0.1):
        matrix = (vectors * np.r_[share, np.linspace(0.2, 1, n - 1)]) @ vectors.T
        point = hp.classify(loss, centre, (matrix.astype(np.float32), centre))
        truth = "saddle" if share < 0 else "minimum"
        assert point.label in {truth, *NO_TYPE}, (share, point)
        assert share > -0.5 or point.label == truth, point


def test_a_tail_that_rounding_makes_wide_is_no_minimum():
    """exp(−x) at 40 in bfloat16: x itself is known to a quarter, and the slope is below that rounding."""

    def tail(p):
        low = p.astype(jnp.bfloat16)
        return (jnp.exp(-low[0]) + jnp.exp(jnp.bfloat16(-40)) * (low[1] - 1) ** 2).astype(jnp.float32)

    assert hp.classify(tail, np.array([40, 1], np.float32)).label not in {"minimum", "saddle", "maximum"}


@pytest.mark.slow
def test_loss_scaling_changes_no_label():
    """Mixed precision: the half-precision loss times 2^k inside, divided by 2^k outside."""

    def loss(params, data):
        factor, data = data
        return tilted("float16", params, data) * factor / factor

    for power, share in itertools.product((0, 10), (-0.5, 0.2)):
        params, data = at_share(0, share)
        label = hp.classify(loss, params, (np.float32(2**power), data)).label
        assert label == ("saddle" if share < 0 else "minimum"), power


def test_reduced_products_cost_nothing_on_this_device():
    """XLA's CPU products do not lower their precision; nothing is then lost, and nothing is given away."""
    if jax.default_backend() != "cpu":
        pytest.skip("measured on the CPU")

    def loss(p, matrix):
        with jax.default_matmul_precision("bfloat16"):
            return 0.5 * jnp.dot(p, matrix @ p)

    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.standard_normal((40, 40)))
    matrix = ((vectors * np.r_[-1e-3, np.linspace(0.2, 1, 39)]) @ vectors.T).astype(np.float32)
    point = hp.classify(loss, np.zeros(40, np.float32), matrix)
    assert point.label == "saddle"
    assert point.zero_band < 1e-3
    with jax.default_matmul_precision("bfloat16"):
        assert hp.classify(loss, np.zeros(40, np.float32), matrix).label == "saddle"


@pytest.mark.parametrize(("backend", "eps"), [("cpu", 2.0**-23), ("gpu", 2.0**-10), ("tpu", 2.0**-7)])
def test_elsewhere_reduced_products_are_taken_as_reduced(monkeypatch, backend, eps):
    monkeypatch.setattr(tracing.jax, "default_backend", lambda: backend)
    layout = hp.hessian(lambda p: jnp.sum(p**2), np.zeros(2, np.float32)).layout
    facts = ProgramFacts(lowest_float="float32", reduced_matmul=True)
    assert tracing.machine_epsilon(layout, facts) == eps


@pytest.mark.slow
def test_eigenvalues_in_half_precision_state_what_they_can():
    """Every eigenvalue of the float64 truth lies where the result says, its rounding allowed for."""
    params, data = at_share(0, -0.2)
    op = hp.hessian(partial(tilted, "bfloat16"), params, data, check=False)
    _, eigenvalues = network(0)
    shift = float(data[2])
    for rtol in (1e-1, 1e-6):
        found = hp.eigsh(op, lowest=1, highest=1, rtol=rtol)
        truth = np.array([eigenvalues[0], eigenvalues[-1]]) + shift
        assert found.status == ("converged" if rtol > 2.0**-7 * np.sqrt(op.size) else "stagnated")
        assert found.status == "converged" or "bfloat16" in repr(found)
        assert np.all(np.abs(found.eigenvalues - truth) <= found.residual_norms + 0.02 * found.norm)
        np.testing.assert_array_equal(found.converged, found.residual_norms <= rtol * found.norm)


@pytest.mark.slow
def test_a_curvature_that_coarse_rounding_hides_is_not_taken_for_flat():
    """λ_min = −1e-4 ‖H‖ in bfloat16: flat as far as can be seen, and a saddle all the same."""
    for seed in range(4):
        params, data = at_share(seed, -1e-4)
        point = hp.classify(partial(tilted, "bfloat16"), params, data)
        assert point.label in NO_TYPE, (seed, point)
