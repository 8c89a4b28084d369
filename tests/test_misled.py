"""Losses whose rounding, tails or derivatives look like what they are not: nothing false is claimed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
NO_CLAIM = {"degenerate", "undetermined"}
NORMAL = np.array([1.0, -2.0, 0.5])


def separable():
    """Thirty points that a plane through zero separates: cross-entropy has no minimum and no saddle."""
    x = np.random.default_rng(0).normal(size=(30, 3))
    sides = np.sign(x @ NORMAL)
    x += 0.3 * sides[:, None] * NORMAL / np.linalg.norm(NORMAL)
    return x.astype(FLOAT), (sides > 0).astype(np.int32)


def cross_entropy(p, batch):
    x, labels = batch
    return -jnp.mean(jax.nn.log_softmax(x @ p["w"] + p["b"][None])[jnp.arange(30), labels])


# Longer weights separate by wider margins, so the loss falls for ever and the gradient is nowhere
# zero, though it underflows and the loss turns into a staircase of roundings.
@pytest.mark.parametrize("length", [3, 8, 10, 20, 54, 56, 60, 150])
@pytest.mark.slow
def test_separable_data_have_no_critical_point(length):
    w = np.stack([-length * NORMAL, length * NORMAL], axis=1).astype(FLOAT)
    point = hp.classify(cross_entropy, {"w": w, "b": np.zeros(2, FLOAT)}, separable())
    assert point.label in {"not_critical", *NO_CLAIM}, point


def through_rounding(w):
    return w + jax.lax.stop_gradient(jnp.round(w) - w)


# The loss does not change at all within half a unit of the point: its derivative is made up.
def test_a_made_up_slope_is_no_slope():
    def loss(w):
        return (through_rounding(w[0]) - 0.3) ** 2

    for at in (0.1, 0.2, -0.3):
        point = hp.classify(loss, np.array([at], FLOAT))
        assert point.label != "not_critical", (at, point)


@jax.custom_vjp
def sign(x):
    """The sign, with the derivative of the identity near zero."""
    return jnp.sign(x)


sign.defvjp(lambda x: (jnp.sign(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0),))

MADE_UP = {
    "rounding": lambda w: 3 * through_rounding(w[0]) + w[1] ** 2,
    "sign": lambda w: 2 * sign(w[0]) + w[1] ** 2,
    "squared sign": lambda w: (sign(w[0]) - 0.5) ** 2 + w[1] ** 2,
}


@pytest.mark.parametrize("name", MADE_UP)
def test_a_slope_along_which_nothing_changes_is_not_claimed(name):
    point = hp.classify(MADE_UP[name], np.array([0.3, 0], FLOAT))
    assert point.label in {"minimum", *NO_CLAIM}, point


def test_a_tail_in_half_precision_is_no_minimum():
    def loss(p):
        w = p.astype(jnp.bfloat16)
        return (jnp.exp(-w[0]) + w[1] ** 2).astype(p.dtype)

    for far in (2, 3, 4, 6):
        point = hp.classify(loss, np.array([far, 0], FLOAT))
        assert point.label in {"not_critical", *NO_CLAIM}, (far, point)


def test_a_slope_that_the_gradient_hides_is_no_saddle():
    """Of wv + v² at (1, −½) the slope along w is −½; the derivative along w is stopped."""
    point = hp.classify(lambda p: jax.lax.stop_gradient(p[0]) * p[1] + p[1] ** 2, np.array([1, -0.5], FLOAT))
    assert point.label in {"not_critical", *NO_CLAIM}, point


# Tails beside y²: the gradient, below the rounding of y² in float32, is a slope nonetheless.
TAILS = {
    "exp": lambda t: jnp.exp(-t),
    "power": lambda t: 1 / t**3,
    "rational": lambda t: t**2 / (1 + t**2),
    "gauss": lambda t: -jnp.exp(-(t**2) / 200),
}


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_far_out_on_a_tail_there_is_no_minimum(tail):
    def loss(p):
        return tail(p[0]) + p[1] ** 2

    for far in (15, 30, 60, 1000):
        point = hp.classify(loss, np.array([far, 0], FLOAT))
        # Constant to rounding as far as is looked: that is what a flat minimum promises.
        flat = abs(tail(FLOAT.type(far)) - tail(FLOAT.type(2 * far))) < np.finfo(FLOAT).eps
        assert (flat and point.label == "minimum") or point.label in {"not_critical", *NO_CLAIM}, (far, point)
        assert not point.certified, (far, point)


# Groups of a mixture that share one mean, at the mean of the data: a saddle, by symmetry.  Its gradient is
# rounding of sums over samples; small parameters are hardly rounded, and do not show how large that is.
@pytest.mark.parametrize("count", [60, *(pytest.param(n, marks=pytest.mark.slow) for n in (100, 150))])
@pytest.mark.slow
def test_the_rounding_of_a_sum_over_samples_is_no_slope(count):
    x = np.random.default_rng(0).standard_normal((count, 4))
    x = (x - x.mean(axis=0)).astype(FLOAT)

    def loss(p, x):
        far = jnp.sum((x[:, None] - p["means"][None]) ** 2, axis=-1)
        return -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(p["shares"])[None] - 2 * far, axis=-1))

    params = {"means": np.tile(x.mean(axis=0), (3, 1)), "shares": np.full(3, 7.9e-6, FLOAT)}
    point = hp.classify(loss, params, x)
    assert point.label in {"saddle", *NO_CLAIM}, point
    assert point.lowest.eigenvalues[0] < -4


def test_newton_steps_that_leave_a_quarter_of_the_gradient_show_no_strict_saddle():
    """Beside ⅓x³ − ½y² + ½|z|² every step leaves a quarter of the slope along x, whose curvature vanishes."""

    def loss(p):
        return p[0] ** 3 / 3 - p[1] ** 2 / 2 + jnp.sum(p[2:] ** 2) / 2

    for x in (0.03, 0.1, 0.3):
        point = hp.classify(loss, np.r_[x, np.zeros(59)].astype(FLOAT))
        assert point.label in {"saddle", *NO_CLAIM}, (x, point)
        assert not point.strict
        assert not point.certified
