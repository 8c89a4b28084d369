"""Functions and networks of known curvature against oracles that do not share their code, in float64."""

import itertools
import sys
from functools import partial

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from hessian_probe import problems

# The truth does not depend on the suite's precision.
pytestmark = pytest.mark.one_precision
_COMPILED = {}


def compiled(point):
    """Value of a point's loss on flat parameters, and all derivatives; one pair per family."""
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves((point.params, point.data)))
    key = (point.loss, jax.tree.structure(point.params), shapes)
    if key not in _COMPILED:
        unravel = ravel_pytree(point.params)[1]

        def loss(x, *data):
            return point.loss(unravel(x), *data)

        def derivatives(x, *data):
            gradient, product = jax.linearize(lambda at: jax.grad(loss)(at, *data), x)
            # Eight columns at a time: twice as fast as all at once for a thousand parameters.
            columns = jax.vmap if x.size <= 200 else lambda f: partial(jax.lax.map, f, batch_size=8)
            return loss(x, *data), gradient, columns(product)(jax.numpy.eye(x.size, dtype=x.dtype))

        _COMPILED[key] = jax.jit(loss), jax.jit(derivatives)
    return _COMPILED[key]


def dense(point, at=None):
    """Value, gradient and Hessian of a point's loss on flat parameters."""
    x = flat_params(point) if at is None else at
    return tuple(map(np.asarray, compiled(point)[1](x, *point.args[1:])))


def value(point, at=None):
    """Value of a point's loss at flat parameters."""
    x = flat_params(point) if at is None else at
    return float(compiled(point)[0](x, *point.args[1:]))


def flat_params(point):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(point.params)])


def inertia(values):
    """Counts of negative, zero and positive eigenvalues; zero is below 1e-9 of the largest."""
    # 1e-9: no non-zero eigenvalue of any table is below 1e-4 of its largest, no zero above 1e-12.
    zero = 1e-9 * np.abs(values).max()
    return tuple(int(np.sum(which)) for which in (values < -zero, np.abs(values) <= zero, values > zero))


def ridge_gradient(params, data):
    """Gradient of ``ridge_polynomial``, by hand in numpy."""
    rows, offsets, w = (np.asarray(part, np.float64) for part in data)
    z = rows @ np.asarray(params, np.float64) - offsets
    return rows.T @ (w[:, 0] + w[:, 1] * z + w[:, 2] * z**2 / 2.0 + w[:, 3] * z**3 / 6.0) / len(z)


def ridge_hessian(params, data):
    """Hessian of ``ridge_polynomial``, by hand in numpy: Aᵀ diag(w₂ + w₃z + w₄z²/2) A/m."""
    rows, offsets, w = (np.asarray(part, np.float64) for part in data)
    z = rows @ np.asarray(params, np.float64) - offsets
    return rows.T @ ((w[:, 1] + w[:, 2] * z + w[:, 3] * z**2 / 2.0)[:, None] * rows) / len(z)


# Widths, then (−, 0, +) for the fitted directions none, 1, 2, 3, 12, 13, 23, 123; s = (3, 2, 1).
LINEAR_NETWORKS = {
    (4, 2, 3): "6,2,6 2,4,8 3,4,7 4,4,6 0,4,10 1,4,9 2,4,8",
    (3, 3, 3): "9,0,9 4,5,9 5,5,8 6,5,7 1,8,9 2,8,8 3,8,7 0,9,9",
    (5, 4, 3): "12,8,12 6,13,13 7,13,12 8,13,11 2,16,14 3,16,13 4,16,12 0,17,15",
}


@pytest.mark.parametrize("widths", LINEAR_NETWORKS)
def test_two_layer_linear_networks_have_the_tabulated_inertia(widths):
    subsets = [s for r in range(4) for s in itertools.combinations((1, 2, 3), r)]
    for subset, counts in zip(subsets, LINEAR_NETWORKS[widths].split(), strict=False):
        point = problems.deep_linear_point(widths, subset, (3.0, 2.0, 1.0))
        expected = tuple(map(int, counts.split(",")))
        assert inertia(np.linalg.eigvalsh(dense(point)[2])) == expected
        assert (point.index, point.num_zero) == expected[:2]


def test_hidden_rotations_and_seeds_change_no_truth():
    for seed in (1, 2):
        turned = problems.deep_linear_point((3, 3, 3), (1, 3), seed=seed)
        plain = problems.deep_linear_point((3, 3, 3), (1, 3), seed=seed, rotate_hidden=False)
        spectra = [np.linalg.eigvalsh(dense(point)[2]) for point in (turned, plain)]
        np.testing.assert_allclose(spectra[0], spectra[1], atol=1e-12 * spectra[0].max())
        assert not np.allclose(turned.params[0], plain.params[0])


@pytest.mark.parametrize(
    ("widths", "subset", "options", "message"),
    [
        ((3, 3), (), {}, "three positive widths"),
        ((3, 0, 3), (), {}, "three positive widths"),
        ((3, 3, 3), (4,), {}, "different directions"),
        ((3, 3, 3), (1, 1), {}, "different directions"),
        ((4, 2, 3), (1, 2, 3), {}, "at most 2"),
        ((3, 3, 3), (1,), {"singular_values": (1.0, 2.0)}, "strictly decreasing"),
        ((3, 3, 3), (1,), {"singular_values": ()}, "strictly decreasing"),
        ((3, 3, 3), (1,), {"carried": {1: (1,)}}, "at least two"),
        ((3, 3, 3, 3), (1,), {"carried": {1: (1, 3)}}, "at least two"),
        ((3, 3, 3, 3), (1,), {"carried": {0: (1,)}}, "no free hidden coordinate 0"),
        ((3, 3, 3, 3), (1,), {"carried": {3: (1,)}}, "no free hidden coordinate 3"),
        ((3, 3, 3, 3), (1,), {"carried": {1: (7,)}}, "layer 7"),
        ((2, 4, 4, 3), (1,), {"carried": {2: (1,)}}, "no unused singular direction"),
    ],
)
def test_impossible_linear_networks_are_refused(widths, subset, options, message):
    with pytest.raises(ValueError, match=message):
        problems.deep_linear_point(widths, subset, **options)


def test_polynomials_have_the_derivatives_written_out_by_hand():
    rng = np.random.default_rng(2)
    for seed in range(4):
        point = problems.random_polynomial(4, seed=seed)
        for x in (point.params, point.params + rng.standard_normal(4)):
            _, gradient, hessian = dense(point, at=x)
            by_hand = ridge_hessian(x, point.data)
            np.testing.assert_allclose(hessian, by_hand, atol=1e-11 * np.abs(by_hand).max())
            expected = ridge_gradient(x, point.data)
            np.testing.assert_allclose(gradient, expected, atol=1e-11 * np.abs(by_hand).max())


def test_quadratics_have_the_spectrum_that_was_asked_for():
    for spectrum, label, degenerate in (
        ([-1.0, 2.0, 0.0], "saddle", False),
        ([1.0, 2.0, 0.0], "minimum", True),
        ([-1.0, -2.0], "maximum", False),
        ([0.0, 0.0], "degenerate", True),
    ):
        point = problems.quadratic(spectrum, center=np.ones(len(spectrum)))
        found = np.linalg.eigvalsh(ridge_hessian(point.params, point.data))
        np.testing.assert_allclose(found, np.sort(spectrum), atol=1e-14)
        assert (point.label, point.degenerate) == (label, degenerate)
    assert problems.quadratic([-1.0, 0.0], quartic=1.0).label == "saddle"
    assert problems.quadratic([0.0, 0.0], quartic=1.0).label == "minimum"
    for wrong in ([], [[1.0]], [np.nan]):
        with pytest.raises(ValueError, match="eigenvalues"):
            problems.quadratic(wrong)
    with pytest.raises(ValueError, match="quartic"):
        problems.quadratic([1.0], quartic=-1.0)
    with pytest.raises(ValueError, match="index"):
        problems.random_polynomial(3, index=4)
    with pytest.raises(ValueError, match="num_terms"):
        problems.random_polynomial(3, num_terms=5)


def test_the_lecture_s_saddle_and_the_zero_network():
    saddle = problems.lecture_points()[0]
    down = {"w1": np.array(0.5), "w2": np.array(0.5)}
    assert float(saddle.loss(down)) < float(saddle.loss(saddle.params)) == 1.0
    zero = problems.zero_mlp_point()
    assert (zero.size, zero.index, zero.num_zero) == (32, 8, 16)
    x, y = zero.data
    np.testing.assert_allclose(np.linalg.norm(2.0 * x.T @ y / len(x)), 1.418, rtol=1e-12)


def test_the_zero_network_repeats_each_end_eight_times():
    values = np.linalg.eigvalsh(dense(problems.zero_mlp_point())[2])
    expected = np.repeat([-1.418, 0.0, 1.418], [8, 16, 8])
    np.testing.assert_allclose(values, expected, atol=1e-14 * 10)


def test_known_points_print_no_arrays():
    point = problems.deep_linear_point((3, 3, 3, 3), (1,))
    assert repr(point) == (
        "KnownPoint(linear_network/linear_3-3-3-3_fit_1: saddle, index 0, "
        "second order cannot decide, 27 parameters)"
    )
    assert point.accepted == {"saddle", "degenerate"}
    assert not point.strict
    assert problems.lecture_points()[0].accepted == {"saddle"}


def test_mlp_with_biases_matches_numpy():
    params = problems.mlp_init((5, 4, 3), seed=3)
    x = np.random.default_rng(4).standard_normal((7, 5))
    labels = np.arange(7) % 3
    hidden = np.tanh(x @ params[0]["weight"] + params[0]["bias"])
    logits = hidden @ params[1]["weight"] + params[1]["bias"]
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    cross_entropy = -np.mean(log_p[np.arange(7), labels])
    squared = np.mean(np.sum((logits - np.eye(3)[labels]) ** 2, axis=1))
    loss = problems.mlp_loss("tanh", "cross_entropy")
    assert problems.mlp_loss("tanh", "cross_entropy") is loss
    params, x, hot = jax.tree.map(jax.numpy.asarray, (params, x, np.eye(3)[labels]))
    whole = labels.astype(np.int32)
    np.testing.assert_allclose(loss(params, (x, jax.numpy.asarray(whole))), cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(loss(params, (x, hot)), cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(
        problems.mlp_loss("tanh", "squared_error")(params, (x, hot)), squared, rtol=1e-5
    )
    with pytest.raises(ValueError, match="expected an activation"):
        problems.mlp_loss("nonsense")


def test_digits_name_the_extra_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"hessian_probe\[demo\]"):
        problems.digits()
