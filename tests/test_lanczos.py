"""The Lanczos step and its driver on the host against dense linear algebra."""

import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.spectrum.krylov import Krylov
from hessian_probe.spectrum.lanczos import orthogonalise

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
    """A run from the start, as long as it may be."""
    op = hp.hessian(form, jnp.zeros(len(matrix), FLOAT), matrix, check=False)
    op.apply = lambda v: (matrix @ v[0],)  # the form alone would make it symmetric
    krylov = Krylov(op, (start,), np.random.default_rng(1), steps)
    while krylov.step():
        pass
    return krylov


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


# The driver ----------------------------------------------------------------------------------


def test_it_builds_an_orthonormal_basis_and_its_projection():
    q = rotation(N)
    values = np.linspace(-1, 2, N)
    matrix = jnp.asarray(q * values @ q.T, FLOAT)
    krylov = host(matrix, random_start(), 12)
    rows = np.asarray(krylov.basis[0][:12], np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=20 * EPS)
    projected = rows @ np.asarray(matrix, np.float64) @ rows.T
    np.testing.assert_allclose(np.linalg.eigvalsh(projected), krylov.ritz().values, atol=100 * EPS)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_a_breakdown_is_seen_relative_to_the_norm(scale):
    """Rank 3: after four products the space is invariant, whatever the unit of the loss."""
    krylov = host(low_rank(3, scale), random_start(), 4)
    assert krylov.invariant
    assert len(krylov.ended_runs) == 1
    assert krylov.ended_runs[0].steps == 4
    assert float(krylov.ritz().values[0]) == pytest.approx(-3 * scale, rel=1e3 * EPS)


def test_after_a_breakdown_it_continues_from_a_fresh_orthogonal_vector():
    """An eigenvalue of three copies: one space shows it once, the fresh vectors show the others."""
    q = rotation(N)
    values = np.r_[-3.0, -3.0, -3.0, np.zeros(N - 4), 5.0]
    krylov = host(jnp.asarray(q * values @ q.T, FLOAT), random_start(), 12)
    found = krylov.ritz().values
    np.testing.assert_allclose(found[:3], -3, atol=1e3 * EPS)
    assert found[3] > -1e-3
    rows = np.asarray(krylov.basis[0][:12], np.float64)
    np.testing.assert_allclose(rows @ rows.T, np.eye(12), atol=20 * EPS)


def test_an_asymmetric_map_is_noticed():
    """What ⟨u, Hv⟩ and ⟨Hu, v⟩ differ by cannot be told from curvature."""
    rng = np.random.default_rng(0)
    skew = 1e-2 * rng.standard_normal((N, N))
    matrix = low_rank(30) + jnp.asarray(skew - skew.T, FLOAT)
    assert 1e-3 < host(matrix, random_start(), 12).asymmetry < 1
    assert host(low_rank(30), random_start(), 12).asymmetry < 1e3 * EPS
