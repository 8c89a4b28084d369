"""Densities of spectra that are known: error bars, outliers, shares of signs, and jobs that are continued."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.problems import mlp_init, mlp_loss

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
N = 500
DRAWN = np.random.default_rng(0)
SPECTRA = {
    "linear": np.linspace(-1, 2, N),
    "rank deficient": np.r_[np.linspace(1, 2, N // 4), np.zeros(N - N // 4)],
    "clustered": np.r_[DRAWN.normal(0, 0.01, 250), DRAWN.normal(1, 0.02, 150), DRAWN.normal(-0.5, 0.01, 100)],
    "heavy-tailed": DRAWN.choice([-1.0, 1.0], N) * DRAWN.pareto(1.2, N),
    "with outliers": np.r_[60.0, 60.0, 50.0, 45.0, -28.0, -30.0, np.linspace(-1, 1.5, N - 6)],
}


def map_of(eigenvalues):
    """A map with these eigenvalues; its vectors are the columns of a reflection."""
    d = jnp.asarray(np.sort(eigenvalues), FLOAT)
    u = np.random.default_rng(3).standard_normal(len(d))
    u = jnp.asarray(u / np.linalg.norm(u), FLOAT)

    @jax.jit
    def matvec(v):
        z = d * (v - 2 * u * (u @ v))
        return z - 2 * u * (u @ z)

    return hp.linear_map(matvec, jnp.zeros(len(d), FLOAT), check=False)


def true_density(eigenvalues, found):
    """The eigenvalues but those nearest to the outliers, each smoothed by hand."""
    rest = list(np.sort(eigenvalues))
    for value in found.outliers:
        rest.pop(int(np.argmin(np.abs(np.array(rest) - value))))
    scaled = (np.asarray(found.grid)[:, None] - np.array(rest)[None, :]) / found.resolution
    bumps = np.exp(-0.5 * scaled**2) / (found.resolution * np.sqrt(2 * np.pi))
    return np.sum(bumps, axis=1) / len(eigenvalues)


def held(eigenvalues, found):
    """Share of the grid, where there is anything, at which the 95 % interval holds the true density."""
    true, (low, high) = true_density(eigenvalues, found), found.interval()
    there = true > 1e-3 * np.max(true)
    return np.mean(((low <= true) & (true <= high))[there])


def shares(eigenvalues, band):
    return np.mean(eigenvalues < -band), np.mean(np.abs(eigenvalues) <= band), np.mean(eigenvalues > band)


@pytest.mark.slow
@pytest.mark.parametrize("name", SPECTRA)
def test_error_bars_cover_the_truth_at_the_stated_rate(name):
    """At 95 %: over 20 keys, on the mean at 90 % of the grid or more; shares of signs in 18 of 20."""
    values, grid, signs = SPECTRA[name], [], []
    for seed in range(20):
        found = hp.spectral_density(
            map_of(values), key=jax.random.key(seed), max_hvps=N - 1, num_steps=32, zero_band=1e-3
        )
        grid.append(held(values, found))
        spans = found.negative_interval, found.zero_interval, found.positive_interval
        pairs = zip(spans, shares(values, 1e-3), strict=True)
        signs.append([low - 1e-9 <= share <= high + 1e-9 for (low, high), share in pairs])
    assert np.mean(grid) >= 0.9
    assert np.all(np.sum(signs, axis=0) >= 18)


def test_outliers_are_eigenvalues_with_their_copies_and_no_part_of_the_bulk():
    values = SPECTRA["with outliers"]
    lines = []
    found = hp.spectral_density(
        map_of(values), max_hvps=N - 1, num_steps=32, zero_band=1e-3, progress=lines.append
    )
    np.testing.assert_allclose(found.outliers, [-30, -28, 45, 50, 60, 60], rtol=1e-4)
    assert np.max(found.outlier_residuals) <= 1e-2
    assert np.trapezoid(found.density, found.grid) == pytest.approx(1 - 6 / N, abs=2e-3)
    assert found.grid[0] > -2
    assert found.grid[-1] < 2.5
    assert held(values, found) >= 0.75
    assert found.negative_interval[0] <= 0.4 <= found.negative_interval[1]
    assert (found.status, found.method) == ("converged", "lanczos_quadrature")
    assert found.resolution == pytest.approx(1.25 * 2.5 / 32, rel=0.05)
    assert len(lines) > found.num_probes
    assert repr(found).startswith("SpectralDensity: CONVERGED\n  negative ")
    assert jax.tree.map(lambda leaf: leaf, found).num_hvps == found.num_hvps


def test_rank_deficiency_is_stated():
    found = hp.spectral_density(map_of(SPECTRA["rank deficient"]), max_hvps=N - 1, num_steps=32)
    assert found.zero_mass == pytest.approx(0.75, abs=0.08)
    assert found.zero_interval[0] <= 0.75 <= found.zero_interval[1]
    assert found.zero_interval[1] - found.zero_interval[0] <= 0.2
    assert found.negative_mass == 0
    assert not len(found.outliers) or found.outliers[0] > 0.5


@pytest.mark.parametrize("name", SPECTRA)
def test_a_small_spectrum_is_computed_and_agrees_exactly(name):
    values = SPECTRA[name]
    found = hp.spectral_density(map_of(values), zero_band=1e-3)
    assert (found.method, found.num_hvps, found.num_probes) == ("exact", N, 0)
    true = true_density(values, found)
    np.testing.assert_allclose(found.density, true, atol=2e-3 * np.max(true))
    assert not np.any(found.standard_error)
    masses = found.negative_mass, found.zero_mass, found.positive_mass
    np.testing.assert_allclose(masses, shares(values, 1e-3), atol=1e-12)
    assert found.zero_interval == (found.zero_mass, found.zero_mass)


@pytest.mark.slow
@pytest.mark.one_precision
def test_the_density_of_a_network_agrees_with_its_histogram():
    rng = np.random.default_rng(0)
    batch = rng.uniform(size=(200, 20)), rng.integers(0, 5, 200).astype(np.int32)
    op = hp.hessian(mlp_loss("tanh", "cross_entropy"), mlp_init((20, 60, 5), seed=0), batch)
    assert 1500 <= op.size <= 3000
    values = np.linalg.eigvalsh(op.dense())
    found = hp.spectral_density(op, zero_band=1e-6)
    assert found.method == "lanczos_quadrature"
    assert held(values, found) >= 0.8
    assert np.trapezoid(np.abs(found.density - true_density(values, found)), found.grid) <= 0.1
    for (low, high), share in zip(
        (found.negative_interval, found.zero_interval, found.positive_interval),
        shares(values, 1e-6),
        strict=True,
    ):
        assert low <= share <= high


def test_sums_of_the_eigenvalues_need_no_further_product():
    values = np.r_[np.linspace(0.5, 2, N - 1), 40.0]
    op = map_of(values)
    found = hp.spectral_density(op, max_hvps=N - 1, num_steps=32)
    spent = op.num_hvps
    logarithm, dimension = found.log_determinant(0.1), found.effective_dimension(1.0)
    assert op.num_hvps == spent
    for estimate, true in (
        (logarithm, np.sum(np.log(values + 0.1))),
        (dimension, np.sum(values / (values + 1))),
    ):
        assert abs(estimate.value - true) <= 3.5 * estimate.standard_error
        assert estimate.standard_error <= 0.05 * abs(true)
    with pytest.raises(ValueError, match="expected all positive: give a shift above"):
        found.log_determinant(-1.0)
    with pytest.raises(ValueError, match="shift=0; expected above 0"):
        found.effective_dimension(0)


def test_what_the_loss_does_not_read_counts_as_zero():
    params = {"a": jnp.arange(1.0, 31.0, dtype=FLOAT), "unused": jnp.ones(90, FLOAT)}
    op = hp.hessian(lambda p: jnp.sum(p["a"] ** 3), params)
    exact, drawn = hp.spectral_density(op), hp.spectral_density(op, max_hvps=119, num_steps=16)
    assert exact.zero_mass == pytest.approx(0.75)
    assert (drawn.method, drawn.zero_mass) == ("lanczos_quadrature", pytest.approx(0.75))
    shifted = drawn.log_determinant(1.0)
    true = np.sum(np.log(6 * np.arange(1, 31) + 1.0))
    assert abs(shifted.value - true) <= 4 * shifted.standard_error + 1e-3


@pytest.mark.parametrize("at", [10, 40, 75])
def test_an_interrupted_job_goes_on_to_the_same_answer(at, tmp_path):
    values = SPECTRA["with outliers"]
    options = {"max_hvps": N - 1, "num_steps": 24, "rtol": 0.2, "save_to": tmp_path / "job"}
    whole = hp.spectral_density(map_of(values), **{**options, "save_to": None})
    op, calls = map_of(values), []
    plain = op.matvec

    def stops(v):
        calls.append(1)
        if len(calls) == at:
            raise KeyboardInterrupt
        return plain(v)

    op.matvec = stops
    part = hp.spectral_density(op, **options)
    assert part.status == "interrupted"
    again = hp.spectral_density(map_of(values), **options)
    np.testing.assert_array_equal(again.density, whole.density)
    np.testing.assert_array_equal(again.outliers, whole.outliers)
    assert (again.num_hvps, again.num_probes) == (whole.num_hvps, whole.num_probes)
    with pytest.raises(hp.CheckpointError, match="num_steps=24"):
        hp.spectral_density(map_of(values), **{**options, "num_steps": 20})


def test_budget_signs_and_misuse():
    op = map_of(SPECTRA["linear"])
    found = hp.spectral_density(op, rtol=1e-6, max_hvps=100, num_steps=20, probes="rademacher")
    assert (found.status, found.num_hvps, found.num_probes) == ("max_hvps", 100, 5)
    assert "raise max_hvps" in found.evidence[0]
    zero = hp.spectral_density(map_of(np.zeros(N)), max_hvps=N - 1)
    assert (zero.zero_mass, zero.zero_interval) == (1.0, (1.0, 1.0))
    assert np.trapezoid(zero.density, zero.grid) == pytest.approx(1, abs=1e-3)
    bad = hp.linear_map(lambda v: v * jnp.asarray(jnp.nan, v.dtype), jnp.zeros(N, FLOAT), check=False)
    assert hp.spectral_density(bad, max_hvps=99).status == "nonfinite"
    assert hp.spectral_density(bad).status == "nonfinite"
    with pytest.raises(ValueError, match="probes='normal'; expected 'gaussian'"):
        hp.spectral_density(op, probes="normal")
    with pytest.raises(ValueError, match="num_steps=2; expected at least 4"):
        hp.spectral_density(op, num_steps=2)
    with pytest.raises(ValueError, match="rtol=0, confidence"):
        hp.spectral_density(op, rtol=0)
    with pytest.raises(TypeError, match="expected an operator"):
        hp.spectral_density(np.eye(2))
