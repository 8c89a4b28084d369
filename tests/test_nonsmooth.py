"""Kinks: points whose type is proved by hand, and random networks, where second derivatives are blind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.operators.objective import Objective
from hessian_probe.points.reviews.nonsmooth.review import at_a_kink
from hessian_probe.points.reviews.nonsmooth.sphere_sampling import min_norm_point

FLOAT = np.asarray(jnp.zeros(())).dtype
NO_TYPE = {"undetermined", "degenerate"}
relu = jax.nn.relu


def zeros(*shape):
    return np.zeros(shape, FLOAT)


def rectified(p):
    """max(2x, −x)."""
    return jnp.maximum(2 * p, -p)


def kinked_banana(p):
    return 100 * jnp.abs(p[1] - p[0] ** 2) + (1 - p[0]) ** 2


# The sign of every directional derivative, or of the second order where those vanish, proves the label.
# In the last column "decided": both precisions must say so; else "undetermined" is allowed as well.
CLOSED = {
    "l1": (lambda p: jnp.sum(jnp.abs(p)), zeros(2), "minimum", True),
    "l1 in 20": (lambda p: jnp.sum(jnp.abs(p)), zeros(20), "minimum", False),
    "l1, elsewhere": (lambda p: jnp.sum(jnp.abs(p - 3)) + 2, zeros(2) + 3, "minimum", False),
    "minus l1": (lambda p: -jnp.sum(jnp.abs(p)), zeros(3), "maximum", False),
    "|x| - |y|": (lambda p: jnp.abs(p[0]) - jnp.abs(p[1]), zeros(2), "saddle", True),
    "|x| + y²": (lambda p: jnp.abs(p[0]) + p[1] ** 2, zeros(2), "minimum", True),
    "|x| - y²": (lambda p: jnp.abs(p[0]) - p[1] ** 2, zeros(2), "saddle", True),
    "|x| - y² + 1": (lambda p: jnp.abs(p[0]) - p[1] ** 2 + 1, zeros(2), "saddle", True),
    "y² - |x|": (lambda p: p[1] ** 2 - jnp.abs(p[0]), zeros(2), "saddle", True),
    "uneven": (lambda p: rectified(p[0]) + p[1] ** 2, zeros(2), "minimum", True),
    "beside |x| + y²": (lambda p: jnp.abs(p[0] - 1e-3) + p[1] ** 2, zeros(2), "not_critical", False),
    "norm": (lambda p: jnp.linalg.norm(p), zeros(2), "minimum", True),
    "|x|^1.5": (lambda p: jnp.sum(jnp.abs(p) ** 1.5), zeros(2), "minimum", True),
    "a slope in two rectifiers": (
        lambda p: relu(p[0]) - relu(-p[0]) + p[1] ** 2,
        zeros(2),
        "not_critical",
        True,
    ),
    "a slope beside a saddle": (
        lambda p: relu(p[0]) - relu(-p[0]) + p[1] ** 2 - p[2] ** 2,
        zeros(3),
        "not_critical",
        True,
    ),
    "a slope along a kink": (lambda p: jnp.abs(p[0]) + p[1], zeros(2), "not_critical", True),
    "banana, on the way": (kinked_banana, zeros(2), "not_critical", True),
    "banana, at its end": (kinked_banana, zeros(2) + 1, "minimum", False),
}


@pytest.mark.parametrize("name", CLOSED)
def test_kinks_in_closed_form(name):
    loss, params, truth, decided = CLOSED[name]
    point = hp.classify(loss, params)
    assert point.label == truth or (point.label in NO_TYPE and not decided), point
    if truth in ("minimum", "maximum", "saddle") and point.label == truth:
        assert not point.strict
        assert not point.certified


@pytest.mark.parametrize("name", ["|x| - |y|", "|x| - y²", "y² - |x|"])
def test_a_kinked_saddle_is_left(name):
    loss, params, _, _ = CLOSED[name]
    move = hp.escape(loss, params)
    assert move.status == "escaped"
    assert move.loss_after < move.loss_before
    np.testing.assert_allclose(move.loss_after, loss(move.params), rtol=1e-5)


@pytest.mark.parametrize("depth", [2])
@pytest.mark.slow
def test_a_rectifier_network_at_zero_is_a_saddle(depth):
    """All weights zero: the Hessian is exactly zero, and the loss falls and rises along the layers."""
    rng = np.random.default_rng(depth)
    x, y = rng.standard_normal((30, 4)).astype(FLOAT), rng.standard_normal((30, 1)).astype(FLOAT)
    params = [zeros(a, b) for a, b in zip([4] + [3] * (depth - 1), [3] * (depth - 1) + [1], strict=True)]

    def loss(layers):
        h = x
        for weight in layers[:-1]:
            h = relu(h @ weight)
        return jnp.mean((h @ layers[-1] - y) ** 2)

    point = hp.classify(loss, params)
    assert point.label == "saddle"
    assert not point.certified
    assert point.highest.eigenvalues[0] == 0
    move = hp.escape(loss, params, point=point)
    assert move.status == "escaped"


def test_the_shortest_combination():
    """Of points of the plane: zero inside their hull, else the foot of the perpendicular."""
    for points, length in (([(1, 0), (-1, 0)], 0), ([(2, 1), (2, -3)], 2), ([(1, 1), (3, 3)], np.sqrt(2))):
        g = np.asarray(points, float)
        weights, found = min_norm_point(g @ g.T)
        np.testing.assert_allclose(found, length, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(weights @ g), length, atol=1e-6)
        assert np.all(weights >= 0)
        np.testing.assert_allclose(np.sum(weights), 1)


def dead(p):
    return jnp.mean((relu(p * 2 - 1000) - 1) ** 2)


def test_dead_units_are_named():
    point = hp.classify(dead, zeros(4))
    assert point.label in NO_TYPE
    assert "plateau" in point.reasons


def test_the_radius_is_where_the_curvature_holds():
    """½x² inside |x| < 0.1 and straight outside: curvature 1 predicts up to there and not much further."""

    def loss(p, edge):
        a = jnp.abs(p)
        return jnp.sum(jnp.where(a < edge, 0.5 * p * p, edge * a - 0.5 * edge * edge))

    for edge in (0.1, 0.01):
        point = hp.classify(loss, zeros(2), np.asarray(edge, FLOAT))
        assert point.label == "minimum"
        assert 0.5 * edge < point.radius < 3 * edge


def test_a_loss_that_underflows_along_a_line_is_no_extremum_by_finite_steps():
    """v² − exp(−1/u²), turned: where that is 0 in floats only the rounding of directions is seen."""
    rng = np.random.default_rng(10)
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0].astype(FLOAT)

    def loss(p, data):
        rotation, sign = data
        z = rotation @ p
        square = jnp.sum(z[:2] ** 2)
        silent = square < 1e-3
        away = jnp.where(silent, 1.0, square)
        return sign * (2 * jnp.sum(z[2:] ** 2) - jnp.where(silent, 0.0, jnp.exp(-1.0 / away)))

    for sign in (1, -1):
        point = hp.classify(loss, zeros(5), (turn, np.asarray(sign, FLOAT)))
        assert point.label in NO_TYPE


def kinked_form(p, data):
    """Σ aᵢ|zᵢ| + sᵢzᵢ + ½qᵢzᵢ² in rotated coordinates z = U(p − c): its type is read off the coefficients."""
    rotation, a, s, q, centre, offset = data
    z = rotation @ (p - centre)
    return jnp.sum(a * jnp.abs(z) + s * z) + 0.5 * jnp.sum(q * z * z) + offset


KINDS = {
    "minimum": lambda a, s, q, k: (a, s, q),
    "saddle by a kink": lambda a, s, q, k: (np.r_[-a[0], a[1:]], np.r_[0.0, s[1:]], q),
    "saddle along the kinks": lambda a, s, q, k: (a, s, np.r_[q[:-1], -q[-1]]),
    "maximum": lambda a, s, q, k: (-a, s, -q),
    "not_critical": lambda a, s, q, k: (a, np.r_[2 * a[0], s[1:]], q),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rotated_kinks_are_never_given_a_wrong_label(kind, x64):
    """One to n − 1 kinks, a hundredfold apart in strength and uneven, among curvatures as far apart."""
    rng = np.random.default_rng(list(KINDS).index(kind))
    decided = 0
    cases = [(n, centred) for n in (3, 8) for centred in (True, False)]
    for n, centred in cases:
        kinks = int(rng.integers(1, n))
        a, s = np.zeros(n), np.zeros(n)
        a[:kinks] = 10 ** rng.uniform(-1, 1, kinks)
        s[:kinks] = rng.uniform(-0.9, 0.9, kinks) * a[:kinks]
        a, s, q = KINDS[kind](a, s, 10 ** rng.uniform(-1, 1, n), kinks)
        rotation, _ = np.linalg.qr(rng.standard_normal((n, n)))
        centre = np.zeros(n) if centred else rng.standard_normal(n)
        data = tuple(np.asarray(part, FLOAT) for part in (rotation, a, s, q, centre, 1.0))
        point = hp.classify(kinked_form, centre.astype(FLOAT), data)
        truth = kind.split()[0]
        assert point.label in {truth, *NO_TYPE}, (n, kinks, point)
        decided += point.label == truth
    if kind.split()[0] in ("minimum", "maximum"):  # never claimed at a kink in so many directions
        assert decided == 0
    else:
        assert decided >= (len(cases) // 2 if x64 else 1)


def narrow(p):
    """Σ pᵢ² − 2n min(relu(p))²: −n t² at (t, …, t), t > 0, and nowhere else than in that orthant negative."""
    return jnp.sum(p * p) - 2 * p.size * jnp.min(relu(p)) ** 2


def rectified_chain(p):
    """A chain of rectifiers at zero beside a bowl; it falls where all of its weights are positive."""
    h = jnp.ones((), p.dtype)
    for weight in p[1:]:
        h = relu(weight * h)
    return p[0] ** 2 + (1 - h) ** 2


@pytest.mark.parametrize("loss", [narrow, rectified_chain, lambda p: p[0] ** 2 - jnp.prod(relu(p[1:])) ** 2])
@pytest.mark.parametrize("n", [3, pytest.param(5, marks=pytest.mark.slow), 8])
def test_a_narrow_way_down_across_kinks_is_no_minimum(loss, n):
    """The second derivative is positive (semi-)definite, and samples rarely meet the way down."""
    for seed in range(3):
        point = hp.classify(loss, zeros(n), key=jax.random.key(seed))
        assert point.label in ("saddle", *NO_TYPE), point
        assert not point.certified


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_an_extremum_at_a_kink_is_claimed_in_two_directions_at_most(n):
    point = hp.classify(lambda p: jnp.sum(jnp.abs(p)) + jnp.sum(p * p), zeros(n))
    if n <= 2:
        assert (point.label, point.certified, point.strict) == ("minimum", False, False)
    else:
        assert point.label == "undetermined"
        assert point.reasons[0] == "kinks_many_directions"


def test_away_from_its_kinks_a_loss_is_smooth():
    """A rectifier network within one piece is judged by its derivatives, with no less certainty."""
    point = hp.classify(lambda p: jnp.sum(relu(p + 1) ** 2 - 2 * p), zeros(5))
    assert point.label == "minimum"
    assert point.certified


@pytest.mark.parametrize(
    ("loss", "at", "tied"),
    [
        (lambda p: jnp.sum(relu(p)), 0.0, True),
        (lambda p: jnp.sum(relu(p)), 1.0, False),
        (lambda p: jnp.sum(jnp.abs(p - 0.1)), 0.1, True),
        (lambda p: jnp.sum(jnp.where(p > 0, p, 2 * p)), 0.0, True),
        (lambda p: jnp.sum(jnp.where(p > 0, p, 2 * p)), -1.0, False),
        (lambda p: jnp.max(jnp.stack([jnp.sum(p), jnp.sum(p * p), 0.5 * p[0]])), 0.0, True),
        (lambda p: jnp.max(jnp.stack([jnp.sum(p), jnp.sum(p * p), 0.5 * p[0]])), 2.0, False),
        (lambda p: jnp.sum(jnp.sort(p * p) * jnp.arange(3.0, dtype=p.dtype)), 1.0, True),
        (lambda p: jax.nn.logsumexp(p), 0.0, False),
        (jax.checkpoint(lambda p: jnp.sum(relu(p))), 0.0, True),
        (jax.checkpoint(lambda p: jnp.sum(relu(p))), 1.0, False),
    ],
)
def test_ties_at_kinks(loss, at, tied):
    objective = Objective(loss, zeros(3) + FLOAT.type(at))
    assert at_a_kink(objective, objective.variables) is tied
