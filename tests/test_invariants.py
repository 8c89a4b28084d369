"""What no change of units, names, axes or sign may change, on random problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessian_probe as hp
from hessian_probe.spectrum.krylov import Krylov

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
SIZES = (2, 3, 12)
FEW = settings(max_examples=30)
SWAP = {"minimum": "maximum", "maximum": "minimum"}

seeds = st.integers(0, 2**32 - 1)
sizes = st.sampled_from(SIZES)
# No curvature below a hundredth of the largest: every label is then decided in float32, too.
magnitudes = st.floats(0.01, 1.0)
curvatures = st.builds(lambda size, sign: sign * size, magnitudes, st.sampled_from([-1.0, 1.0]))


@st.composite
def spectra(draw):
    n = draw(sizes)
    return np.array(draw(st.lists(curvatures, min_size=n, max_size=n)))


def rotation(n, seed):
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return q * np.sign(np.diag(r))


def bent(p, data):
    """½ Σ dz² + ⅛ Σ z⁴ of z = Q(x − c), times a factor, plus an offset."""
    d, q, centre, factor, offset = data
    z = q @ (p - centre)
    return factor * (0.5 * jnp.sum(d * z**2) + 0.125 * jnp.sum(z**4)) + offset


def classify(d, *, q=None, centre=None, factor=1.0, offset=0.0, away=0.0, key=None):
    n = len(d)
    q = np.eye(n) if q is None else q
    centre = np.zeros(n) if centre is None else centre
    at = centre + away * q.T @ np.ones(n) / np.sqrt(n)
    data = tuple(np.asarray(part, FLOAT) for part in (d, q, centre, factor, offset))
    return hp.classify(bent, at.astype(FLOAT), data, key=key)


def truth(d):
    return "minimum" if d.min() > 0 else "maximum" if d.max() < 0 else "saddle"


def assert_label(point, d):
    assert point.label == truth(d), point
    # Few distinct eigenvalues end the search before the whole spectrum is known.
    assert point.certified or (point.label != "saddle" and point.confidence == 0.99)
    lowest = float(point.lowest.eigenvalues[0])
    if truth(d) == "saddle":
        assert lowest < 0
        assert 1 <= point.index_at_least <= int(np.sum(d < 0))


@FEW
@given(d=spectra(), seed=seeds)
@pytest.mark.slow
def test_the_label_is_that_of_the_spectrum_in_any_axes(d, seed):
    assert_label(classify(d, q=rotation(len(d), seed)), d)


@FEW
@given(d=spectra(), power=st.integers(-20, 20), sign=st.sampled_from([-1, 1]))
def test_a_factor_changes_no_label_and_a_sign_swaps_minimum_and_maximum(d, power, sign):
    point = classify(d, factor=sign * 10.0**power)
    assert_label(point, sign * d)
    np.testing.assert_allclose([point.lowest.norm], [np.abs(d).max() * 10.0**power], rtol=0.5)


@FEW
@given(d=spectra(), offset=st.floats(-1e6, 1e6))
def test_a_constant_changes_no_label(d, offset):
    assert_label(classify(d, offset=offset), d)


@FEW
@given(d=spectra(), seed=seeds)
def test_the_place_changes_no_label(d, seed):
    centre = np.random.default_rng(seed).standard_normal(len(d)) * 3
    assert_label(classify(d, q=rotation(len(d), seed), centre=centre), d)


@FEW
@given(d=spectra(), seed=seeds, away=st.floats(1e-5, 1e-3))
def test_near_a_critical_point_the_label_is_that_point_s(d, seed, away):
    point = classify(d, q=rotation(len(d), seed), away=away)
    assert point.label in {truth(d), "not_critical", "undetermined"}
    if away <= 1e-4:
        assert point.label == truth(d), point
    if point.label == truth(d):
        # A tenth of the gradient may stay unexplained, and lie where there is little curvature.
        assert 0.5 * away <= point.distance <= 2 * away


@FEW
@given(d=spectra(), seed=seeds)
def test_no_key_and_any_key_give_the_same_label(d, seed):
    keys = (None, jax.random.key(seed % 2**31), jax.random.key(1))
    assert {classify(d, key=key).label for key in keys} == {truth(d)}


def leaves(p, data):
    """The same polynomial, its variables in three leaves; `order` undoes the names."""
    d, order = data
    z = jnp.concatenate([p[name].ravel() for name in sorted(p)])[order]
    return 0.5 * jnp.sum(d * z**2) + 0.125 * jnp.sum(z**4)


@FEW
@given(d=st.lists(curvatures, min_size=12, max_size=12).map(np.array), seed=seeds)
@pytest.mark.slow
def test_names_and_order_of_the_variables_change_no_label(d, seed):
    params = {
        "bias": np.zeros((), FLOAT),
        "kernel": np.zeros((2, 4), FLOAT),
        "scale": np.zeros(3, FLOAT),
    }
    order = np.random.default_rng(seed).permutation(12)
    assert_label(hp.classify(leaves, params, (d.astype(FLOAT), np.arange(12))), d)
    assert_label(hp.classify(leaves, params, (d.astype(FLOAT), order)), d)


def quadratic_form(p, matrix):
    return 0.5 * jnp.dot(p, matrix @ p)


def symmetric(values, seed):
    """A matrix of that spectrum as the operator holds it, and its exact spectrum."""
    q = rotation(len(values), seed)
    matrix = (q.T @ (np.asarray(values)[:, None] * q)).astype(FLOAT)
    matrix = (matrix + matrix.T) / FLOAT.type(2)
    return hp.hessian(quadratic_form, np.zeros(len(values), FLOAT), matrix), matrix.astype(np.float64)


@st.composite
def wide_spectra(draw, n=40):
    """Clusters, repeats, zeros, graded parts, over twelve orders of magnitude."""
    kind = draw(st.sampled_from(["plain", "clusters", "graded", "low rank"]))
    rng = np.random.default_rng(draw(seeds))
    if kind == "plain":
        values = rng.uniform(-1, 1, n)
    elif kind == "clusters":
        values = rng.choice(rng.uniform(-1, 1, draw(st.integers(1, 4))), n)
    elif kind == "graded":
        values = rng.choice([-1, 1], n) * 10.0 ** rng.uniform(-8, 0, n)
    else:
        values = np.where(np.arange(n) < draw(st.integers(0, 5)), rng.uniform(-1, 1, n), 0.0)
    return values * 10.0 ** draw(st.integers(-12, 12))


@FEW
@given(values=wide_spectra(), seed=seeds)
def test_ends_of_the_spectrum_with_their_residuals(values, seed):
    op, matrix = symmetric(values, seed)
    exact = np.linalg.eigvalsh(matrix)
    top = np.abs(exact).max()
    noise = 100 * EPS * top + float(np.finfo(FLOAT).tiny)
    result = hp.eigsh(op)
    assert result.status == "converged"
    assert np.all(result.eigenvalues >= exact[0] - noise)
    assert np.all(result.eigenvalues <= exact[-1] + noise)
    nearest = np.abs(result.eigenvalues[:, None] - exact[None, :]).min(axis=1)
    assert np.all(nearest <= result.residual_norms + noise)
    assert np.all(result.residual_norms <= 1e-3 * top + noise)
    # A residual of 1e-3‖H‖ finds the end itself, not merely some eigenvalue, up to 2e-3‖H‖ or so.
    np.testing.assert_allclose(result.eigenvalues, exact[[0, -1]], atol=3e-3 * top + noise)
    vectors = np.asarray(result.eigenvectors, np.float64)
    if exact[-1] - exact[0] > noise:
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(2), atol=100 * EPS)


@FEW
@given(values=wide_spectra(), seed=seeds, copies=st.integers(1, 4))
def test_no_pair_is_counted_twice_or_left_out(values, seed, copies):
    op, matrix = symmetric(values, seed)
    exact = np.linalg.eigvalsh(matrix)
    result = hp.eigsh(op, lowest=copies, highest=copies)
    wanted = np.r_[exact[:copies], exact[-copies:]]
    noise = 100 * EPS * np.abs(exact).max() + float(np.finfo(FLOAT).tiny)
    np.testing.assert_allclose(result.eigenvalues, wanted, atol=3e-3 * np.abs(exact).max() + noise)
    vectors = np.asarray(result.eigenvectors, np.float64)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(2 * copies), atol=100 * EPS)


@FEW
@given(values=wide_spectra(), seed=seeds, steps=st.integers(1, 40), restart=st.booleans())
def test_krylov_bases_are_orthonormal_and_their_ritz_values_interlace(values, seed, steps, restart):
    op, matrix = symmetric(values, seed)
    krylov = Krylov(op, None, np.random.default_rng(seed), 40)
    for _ in range(steps):
        if restart and krylov.size == 12:
            krylov.restart(np.array([0, 1, 10, 11]))
        if not krylov.step():
            break
    basis = np.asarray(krylov.basis[0], np.float64)[: krylov.size]
    np.testing.assert_allclose(basis @ basis.T, np.eye(krylov.size), atol=100 * EPS)
    exact, ritz = np.linalg.eigvalsh(matrix), krylov.ritz().values
    noise = 200 * EPS * np.abs(exact).max() + float(np.finfo(FLOAT).tiny)
    size = krylov.size
    assert np.all(ritz >= exact[:size] - noise)
    assert np.all(ritz <= exact[len(exact) - size :] + noise)
    projected = np.linalg.eigvalsh(basis @ matrix @ basis.T)
    np.testing.assert_allclose(ritz, projected, atol=noise)


@FEW
@given(d=spectra(), seed=seeds)
def test_escapes_only_ever_lower_the_loss(d, seed):
    n = len(d)
    q, at = rotation(n, seed), np.zeros(n, FLOAT)
    data = tuple(np.asarray(part, FLOAT) for part in (d, q, np.zeros(n), 1.0, 0.0))
    move = hp.escape(bent, at, data)
    if truth(d) == "minimum":
        assert move.status == "nothing_to_escape"
        assert move.params is at
    else:
        assert move.status == "escaped"
        # Along the axis of d < 0 the floor is −d²/2; the best axis has the lowest d.
        assert move.loss_after < -0.1 * d.min() ** 2
        np.testing.assert_allclose(float(bent(move.params, data)), move.loss_after, rtol=1e-4)
