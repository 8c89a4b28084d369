"""Traces, norms and diagonals against matrices whose sums are known; their intervals are counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
N = 120
SPECTRA = {
    "flat": np.linspace(0.5, 1.5, N),
    "both signs": np.linspace(-1.0, 1.5, N),
    "decaying": 1.0 / np.arange(1, N + 1) ** 2,
    "slowly decaying": 1.0 / np.arange(1, N + 1),
    "outliers": np.r_[-20.0, 50.0, 40.0, 30.0, np.linspace(-1, 1, N - 4)],
}


def matrix_of(eigenvalues, seed=0):
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))[0]
    return basis * np.asarray(eigenvalues) @ basis.T


def map_of(matrix):
    wide = jnp.asarray(matrix, FLOAT)
    return hp.linear_map(jax.jit(lambda v: wide @ v), jnp.zeros(len(matrix), FLOAT), check=False)


def counted(function, eigenvalues, runs, **options):
    """Share of the 95 % intervals that hold the true sum; the results."""
    op = map_of(matrix_of(eigenvalues))
    found = [function(op, key=jax.random.key(seed), **options) for seed in range(runs)]
    true = np.sum(eigenvalues) if function is hp.trace else np.linalg.norm(eigenvalues)
    held = [low <= true <= high for low, high in (each.interval() for each in found)]
    values = np.array([each.value for each in found])
    assert abs(values.mean() - true) <= 4 * values.std() / np.sqrt(runs) + 1e-3 * abs(true)
    return np.mean(held), found


@pytest.mark.slow
@pytest.mark.parametrize("function", [hp.trace, hp.frobenius_norm])
@pytest.mark.parametrize("name", SPECTRA)
def test_intervals_hold_the_sum_as_often_as_they_say(function, name):
    """Of 200 intervals at 95 %, 180 to 200: three standard deviations of the count below, none above."""
    share, _ = counted(function, SPECTRA[name], 200, rtol=0.03, max_hvps=100)
    assert share >= 0.9


@pytest.mark.parametrize(("name", "method"), [("flat", "hutchinson"), ("decaying", "xtrace")])
def test_the_estimator_with_the_smaller_error_is_chosen_and_said(name, method):
    share, found = counted(hp.trace, SPECTRA[name], 12, rtol=1e-6, max_hvps=60)
    assert share >= 0.75
    assert sum(each.method == method for each in found) >= 11
    assert all(each.num_hvps <= 60 and each.status == "max_hvps" for each in found)
    assert "Hutchinson's estimator at that cost" in found[0].evidence[0]
    others = np.std([each.value for each in found])
    assert others <= {"flat": 0.02, "decaying": 2e-3}[name] * np.sum(SPECTRA[name])


@pytest.mark.parametrize("function", [hp.trace, hp.frobenius_norm])
def test_a_map_of_low_rank_is_summed_to_rounding_by_few_products(function):
    eigenvalues = np.r_[5.0, -3.0, 1.0, np.zeros(N - 3)]
    found = function(map_of(matrix_of(eigenvalues)))
    true = np.sum(eigenvalues) if function is hp.trace else np.linalg.norm(eigenvalues)
    assert found.value == pytest.approx(true, rel=200 * EPS)
    assert found.standard_error <= 200 * EPS * true
    assert (found.method, found.num_hvps, found.status) == ("xtrace", 13, "converged")


def test_n_products_are_spent_where_they_suffice_for_the_exact_sum():
    matrix = matrix_of(np.linspace(-1, 1.1, N))
    found = hp.trace(map_of(matrix), rtol=1e-4)
    assert found.method == "exact"
    assert found.value == pytest.approx(np.trace(matrix), abs=100 * EPS)
    assert 20 + N >= found.num_hvps >= N
    low, high = found.interval()
    assert high - low <= 1e3 * EPS
    small = hp.frobenius_norm(map_of(matrix[:10, :10]))
    assert small.value == pytest.approx(np.linalg.norm(matrix[:10, :10]), rel=1e-5)


def test_the_sum_of_a_hessian_leaves_out_what_the_loss_does_not_read():
    params = {"a": jnp.arange(1.0, 31.0, dtype=FLOAT), "unused": jnp.ones(50, FLOAT), "i": jnp.arange(2)}
    op = hp.hessian(lambda p: jnp.sum(p["a"] ** 3), params)
    assert hp.trace(op).value == pytest.approx(6 * 465, rel=1e-5)
    found = hp.diagonal(op, rtol=0.5)
    np.testing.assert_allclose(found.value["a"], 6 * np.arange(1, 31), rtol=1e-5)
    assert not np.any(found.value["unused"])
    assert found.value["i"].tolist() == [0, 0]


def test_a_nonfinite_product_an_interrupt_and_misuse_are_said():
    bad = hp.linear_map(lambda v: v * jnp.asarray(jnp.nan, v.dtype), jnp.zeros(50, FLOAT), check=False)
    assert hp.trace(bad).status == "nonfinite"
    assert hp.diagonal(bad).status == "nonfinite"
    calls = []

    def stops(v):
        calls.append(v)
        if len(calls) == 13:
            raise KeyboardInterrupt
        return 2 * v

    found = hp.trace(hp.linear_map(stops, jnp.zeros(500, FLOAT), check=False))
    assert found.status == "interrupted"
    assert found.value == pytest.approx(1000, rel=1e-5)
    with pytest.raises(TypeError, match="expected an operator"):
        hp.trace(np.eye(3))
    with pytest.raises(ValueError, match="rtol=0; expected a positive"):
        hp.diagonal(bad, rtol=0)
    with pytest.raises(ValueError, match="max_hvps=2; expected at least 4"):
        hp.trace(bad, max_hvps=2)


# The diagonal --------------------------------------------------------------------------------


def test_entries_of_the_diagonal_lie_within_their_errors():
    """Of 120 entries, 97 % within three standard errors of 40 products."""
    matrix = matrix_of(SPECTRA["outliers"])
    lines = []
    found = hp.diagonal(map_of(matrix), rtol=1e-3, max_hvps=40, progress=lines.append)
    off = np.abs(np.asarray(found.value) - np.diag(matrix)) / np.asarray(found.standard_error)
    assert np.mean(off <= 3) >= 0.97
    assert 0.6 <= np.sqrt(np.mean(off**2)) <= 1.5
    assert (found.status, found.num_hvps, found.method) == ("max_hvps", 40, "bekas")
    assert len(lines) == 4
    expected = np.linalg.norm(found.standard_error) / np.linalg.norm(found.value)
    assert found.relative_error == pytest.approx(expected, rel=1e-3)


def test_the_diagonal_of_a_diagonal_map_needs_ten_products_and_a_full_one_all():
    weights = jnp.arange(1.0, 101.0, dtype=FLOAT)
    found = hp.diagonal(hp.linear_map(lambda v: weights * v, weights, check=False))
    np.testing.assert_allclose(found.value, weights, rtol=1e-5)
    assert (found.num_hvps, found.status) == (10, "converged")
    matrix = matrix_of(np.linspace(-1, 1.1, N))
    found = hp.diagonal(map_of(matrix), rtol=1e-3)
    np.testing.assert_allclose(found.value, np.diag(matrix), atol=1e-5)
    assert (found.method, found.relative_error) == ("exact", 0.0)


def test_estimates_are_pytrees_and_print_their_verdict_first():
    op = map_of(matrix_of(SPECTRA["flat"]))
    t, d = hp.trace(op), hp.diagonal(op)
    assert repr(t).startswith("SpectralSum: CONVERGED\n  trace ")
    assert repr(d).startswith("DiagonalEstimate: CONVERGED\n  error ")
    assert jax.tree.map(lambda leaf: leaf, d).num_hvps == d.num_hvps
    assert repr(hp.trace(op)) == repr(t)  # a fixed seed
