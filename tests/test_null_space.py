"""A known symmetry is left out: tested first, and then second order decides alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from benchmarks.truth_points import truth_points
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.restricted import NullDirections, RestrictedHessian
from hessian_probe.spectrum.krylov import Krylov

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)


def array(*values):
    return np.asarray(values, FLOAT)


def translation(axis):
    return lambda p: jnp.zeros_like(p).at[:, axis].set(1)


def rotation(a, b):
    return lambda p: jnp.zeros_like(p).at[:, a].set(-p[:, b]).at[:, b].set(p[:, a])


RIGID = [translation(0), translation(1), translation(2), rotation(0, 1), rotation(1, 2), rotation(0, 2)]
CLUSTERS = truth_points("cluster")[:2]


@pytest.mark.parametrize("known", CLUSTERS[:2], ids=lambda known: known.name)
@pytest.mark.slow
def test_rigid_motions_left_out(known):
    """Six zero modes go, and the lowest eigenvalue left is the lowest that is not zero."""
    cast = known.astype(FLOAT)
    point = hp.classify(cast.loss, cast.params, null_space=RIGID)
    assert point.label == known.label, point
    assert point.strict
    size = cast.params.size
    values = np.linalg.eigvalsh(np.asarray(jax.hessian(cast.loss)(cast.params)).reshape(size, size))
    values = np.delete(values, np.argsort(np.abs(values))[:6])
    np.testing.assert_allclose(point.lowest.eigenvalues[0], values[0], rtol=2e-2)
    np.testing.assert_allclose(point.highest.eigenvalues[0], values[-1], rtol=2e-2)
    assert "null_space_left_out" in point.reasons
    assert str(size - 6) in " ".join(point.evidence)


@pytest.mark.slow
def test_rigid_motions_as_vectors():
    """A rotation's tangent is flat only with the other directions at rest; a straight line is not."""
    known = CLUSTERS[0].astype(FLOAT)
    vectors = np.stack([np.asarray(g(jnp.asarray(known.params))) for g in RIGID])
    point = hp.classify(known.loss, known.params, null_space=vectors)
    if point.label == "undetermined" and np.float32 == FLOAT:  # rounding bends a combination off the orbit
        assert point.reasons[0] == "null_space_combination"
        return
    assert point.label == "minimum"
    assert point.strict


def hyperbola(p):
    return (p["a"] * p["b"] - 1) ** 2


def rescaling(p):
    return {"a": p["a"], "b": -p["b"]}


@pytest.mark.parametrize("b", [0.5, 0.5003])
def test_a_rescaling_symmetry(b):
    """Where the gradient is not zero, H times the orbit's tangent is not either: that is no fault."""
    params = {"a": FLOAT.type(2), "b": FLOAT.type(b)}
    point = hp.classify(hyperbola, params, null_space=rescaling)
    assert point.label == "minimum"
    assert point.strict
    move = hp.escape(hyperbola, {"a": FLOAT.type(0), "b": FLOAT.type(0)})
    assert move.status == "escaped"


NOT_FLAT = {
    "bent": (lambda p: p[0] ** 2 - p[1] ** 2, [[0, 1]], "null_space_product"),
    "quartic": (lambda p: p[0] ** 2 - p[1] ** 4, [[0, 1]], "null_space_line"),
    "hides a saddle": (lambda p: p[0] * p[1], [[0, 1]], "null_space_product"),
    "no symmetry": (
        lambda p: p[0] ** 2 + 2 * p[1] ** 2,
        lambda p: jnp.stack([p[1] + 1, -p[0]]),
        "null_space_product",
    ),
}


@pytest.mark.parametrize("name", NOT_FLAT)
def test_what_is_not_flat_is_named_and_nothing_claimed(name):
    loss, given, reason = NOT_FLAT[name]
    null = given if callable(given) else array(*given)
    point = hp.classify(loss, array(0, 0), null_space=null)
    assert point.label == "undetermined"
    assert point.reasons[0] == reason
    assert ("generator 0" if callable(given) else "null_space") in point.evidence[0]
    move = hp.escape(loss, array(0, 0), null_space=null)
    assert move.status == "undetermined"


def test_a_slope_along_a_null_vector_is_seen():
    point = hp.classify(lambda p: p[0] ** 2 + p[1], array(0, 0), null_space=array([0, 1]))
    assert point.label == "undetermined"
    assert point.reasons[0] == "null_space_slope"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("flat", TypeError),
        ([[1.0, 0.0]], TypeError),
        (np.zeros((1, 2), FLOAT), ValueError),
        (np.zeros((0, 2), FLOAT), ValueError),
        (np.zeros(2, FLOAT), ValueError),
        (np.ones((1, 3), FLOAT), ValueError),
        (np.full((1, 2), np.nan, FLOAT), ValueError),
        (np.eye(2, dtype=FLOAT), ValueError),
        (lambda p: {"w": p}, ValueError),
    ],
)
def test_wrong_input_is_named(given, error):
    with pytest.raises(error, match="null_space"):
        hp.classify(lambda p: jnp.sum(p**2), array(0, 0), null_space=given)


def quadratic(p, matrix):
    return 0.5 * p @ (matrix @ p)


@pytest.mark.slow
def test_by_lanczos_the_complement_is_searched():
    """Three zeros of 300 are left out; the probability is about the other 297."""
    rng = np.random.default_rng(3)
    turn = np.linalg.qr(rng.standard_normal((300, 300)))[0]
    values = np.concatenate([np.zeros(3), np.linspace(0.5, 2, 297)])
    matrix = ((turn * values) @ turn.T).astype(FLOAT)
    params = np.zeros(300, FLOAT)
    assert not hp.classify(quadratic, params, matrix).strict
    point = hp.classify(quadratic, params, matrix, null_space=turn[:, :3].T.astype(FLOAT))
    assert point.label == "minimum"
    assert point.strict
    np.testing.assert_allclose(point.lowest.eigenvalues[0], 0.5, rtol=5e-2)


def test_a_restricted_krylov_space_stays_in_the_complement():
    """Repeated eigenvalues break the recurrence down; rounding must not let the null space in."""
    values = array(0, 0, *[1] * 6, *[3] * 6)
    objective = Objective(lambda p, d: 0.5 * jnp.sum(d * p**2), np.zeros(14, FLOAT), values)
    null = NullDirections(objective, np.eye(14, dtype=FLOAT)[:2])
    op = RestrictedHessian(objective, null)
    krylov = Krylov(op, None, np.random.default_rng(0), 20)
    while krylov.step():
        pass
    assert krylov.exhausted
    assert krylov.size == 12
    np.testing.assert_allclose(krylov.ritz().values, values[2:], atol=100 * EPS)
    np.testing.assert_allclose(op.complement.T @ op.complement, np.eye(12), atol=100 * EPS)


@pytest.mark.parametrize(
    ("loss", "n"),
    [
        (lambda p: p[0] ** 2 + p[1] * p[2] * p[3], 4),
        (lambda p: (1 - jnp.prod(p[1:])) ** 2 + p[0] ** 2, 6),
        (lambda p: p[0] ** 2 + jnp.prod(p[1:6]), 20),
    ],
)
def test_vectors_that_are_flat_one_by_one_and_not_together(loss, n):
    """A product of several vanishes along each axis, and falls along combinations."""
    point = hp.classify(loss, np.zeros(n, FLOAT), null_space=np.eye(n, dtype=FLOAT)[1:])
    assert point.label == "undetermined", point
    assert point.reasons[0] == "null_space_combination"
