"""The Lanczos step and its two drivers against dense linear algebra."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.lanczos import orthogonalise
from hessian_probe.spectrum.traced_krylov import krylov_space

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
N = 60


def rotation(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def low_rank(rank, scale=1.0, n=N):
    """Eigenvalues −3 … 5 times the scale, in a random basis, and zeros."""
    q, values = rotation(n), scale * np.linspace(-3, 5, rank)
    return jnp.asarray(q[:, :rank] * values @ q[:, :rank].T, FLOAT)


def form(x, matrix):
    return 0.5 * jnp.vdot(x, matrix @ x)


def host(matrix, start, steps):
    """The host driver."""
    op = hp.hessian(form, jnp.zeros(len(matrix), FLOAT), matrix, check=False)
    op.apply = lambda v: (matrix @ v[0],)  # the form alone would make it symmetric
    krylov = Krylov(op, (start,), np.random.default_rng(1), steps)
    while krylov.step():
        pass
    return krylov


def traced(matrix, start, steps, **options):
    """The traced driver, inside jit."""

    def run(matrix, start):
        return krylov_space(lambda v: (matrix @ v[0],), (start,), steps, **options)

    return jax.jit(run)(matrix, start)


def random_start(n=N, seed=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(n), FLOAT)


# The step ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outside", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_what_is_left_is_orthogonal_to_rounding_however_little_it_is(outside, scale):
    """One pass leaves eps/outside of the basis in the unit vector; the repetition removes it."""
    q = rotation(N)
    basis = np.zeros((32, N), FLOAT)
    basis[:20] = q[:20]
    inside = np.random.default_rng(1).standard_normal(20)
    vector = scale * (inside @ q[:20] + outside * q[20])
    unit, removed, length = orthogonalise(
        (jnp.asarray(basis),), (jnp.asarray(vector, FLOAT),), (jnp.asarray(basis[19]),), 20
    )
    assert np.max(np.abs(basis @ np.asarray(unit[0]))) < 20 * EPS
    assert np.linalg.norm(unit[0]) == pytest.approx(1.0, abs=20 * EPS)
    np.testing.assert_allclose(removed[:20], scale * inside, atol=100 * EPS * scale)
    np.testing.assert_array_equal(removed[20:], 0)
    assert float(length) == pytest.approx(scale * outside, rel=1e3 * EPS / outside)


def test_a_vector_of_zeros_stays_one():
    basis, zero = jnp.zeros((16, 5), FLOAT), jnp.zeros(5, FLOAT)
    unit, removed, length = orthogonalise((basis,), (zero,), (zero,), 0)
    assert float(length) == 0
    np.testing.assert_array_equal(unit[0], 0)
    np.testing.assert_array_equal(removed, 0)


# The drivers ---------------------------------------------------------------------------------


def test_both_drivers_build_the_same_space():
    q = rotation(N)
    values = np.linspace(-1, 2, N)
    matrix, start = jnp.asarray(q * values @ q.T, FLOAT), random_start()
    one, other = host(matrix, start, 12), traced(matrix, start, 12)
    np.testing.assert_allclose(one.ritz().values, other.values, atol=1e3 * EPS)
    rows = np.asarray(other.basis[0], np.float64)
    np.testing.assert_allclose(rows, np.asarray(one.basis[0][:12]), atol=1e4 * EPS)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=20 * EPS)
    projected = rows @ np.asarray(matrix, np.float64) @ rows.T
    np.testing.assert_allclose(np.linalg.eigvalsh(projected), other.values, atol=100 * EPS)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_a_breakdown_is_seen_relative_to_the_norm(scale):
    """Rank 3: after four products the space is invariant, whatever the unit of the loss."""
    matrix, start = low_rank(3, scale), random_start()
    krylov = host(matrix, start, 4)
    assert krylov.invariant
    assert len(krylov.ended_runs) == 1
    assert krylov.ended_runs[0].steps == 4
    space = traced(matrix, start, 10)
    rows = np.linalg.norm(np.asarray(space.basis[0]), axis=1)
    np.testing.assert_allclose(rows, [1] * 4 + [0] * 6, atol=20 * EPS)
    assert float(space.curvature) == pytest.approx(-3 * scale, rel=1e3 * EPS)


def test_after_a_breakdown_the_host_continues_from_a_fresh_orthogonal_vector():
    """An eigenvalue of three copies: one space shows it once, the fresh vectors show the others."""
    q = rotation(N)
    values = np.r_[-3.0, -3.0, -3.0, np.zeros(N - 4), 5.0]
    krylov = host(jnp.asarray(q * values @ q.T, FLOAT), random_start(), 12)
    found = krylov.ritz().values
    np.testing.assert_allclose(found[:3], -3, atol=1e3 * EPS)
    assert found[3] > -1e-3
    rows = np.asarray(krylov.basis[0][:12], np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=20 * EPS)


def test_an_asymmetric_map_widens_the_zero_band():
    """What ⟨u, Hv⟩ and ⟨Hu, v⟩ differ by cannot be told from curvature."""
    rng = np.random.default_rng(0)
    skew = 1e-2 * rng.standard_normal((N, N))
    matrix = low_rank(30) + jnp.asarray(skew - skew.T, FLOAT)
    space = traced(matrix, random_start(), 12)
    assert 1e-3 < float(space.band) < 1
    assert float(traced(low_rank(30), random_start(), 12).band) < 1e3 * EPS
    assert 1e-3 < host(matrix, random_start(), 12).asymmetry < 1
    assert host(low_rank(30), random_start(), 12).asymmetry < 1e3 * EPS


def test_a_traced_run_ends_early_only_where_a_negative_eigenvalue_is_sure():
    matrix = jnp.diag(jnp.asarray([-10.0, *np.linspace(-1, 1, 39)], FLOAT))
    space = traced(matrix, random_start(40), 30, ends_early=True)
    assert int(space.num_products) < 15
    assert bool(space.negative)
    values = np.linalg.eigvalsh(np.asarray(matrix))
    assert np.min(np.abs(values - float(space.curvature))) <= float(space.residual) + 1e3 * EPS
    positive = traced(jnp.diag(jnp.linspace(0, 5, 40, dtype=FLOAT)), random_start(40), 12, ends_early=True)
    assert int(positive.num_products) == 13
    assert not bool(positive.negative)
    assert float(positive.curvature) > -float(positive.band)
