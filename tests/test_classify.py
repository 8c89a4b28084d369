"""Labels: points whose type is proved by hand, traps, bad input, and what a result promises."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from benchmarks.truth_points import truth_points
from benchmarks.truth_points.networks import STATES, plateau_points
from hessian_probe import problems

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
LABELS = ("minimum", "maximum", "saddle", "degenerate", "not_critical", "undetermined")
NO_CLAIM = {"not_critical", "undetermined"}
NO_TYPE = {"undetermined", "degenerate"}


def array(*values):
    return np.asarray(values, FLOAT)


def reflected(p, data):
    """Quadratic form with eigenvalues d along the columns of I − 2uu', centred at c."""
    d, u, c = data
    z = p - c
    z = z - 2.0 * u * jnp.dot(u, z)
    return 0.5 * jnp.sum(d * z * z)


def quadratic(eigenvalues, seed=0, away=0.0):
    """Loss, parameters and data; the parameters `away` from the critical point."""
    d = np.asarray(eigenvalues, FLOAT)
    rng = np.random.default_rng(seed)
    u, c, step = rng.standard_normal((3, d.size))
    u /= np.linalg.norm(u)
    at = c + away * step / np.linalg.norm(step)
    return reflected, at.astype(FLOAT), (d, u.astype(FLOAT), c.astype(FLOAT))


def assert_sound(point, loss, params, data=None):
    """What every result promises, checked on the loss itself in float64 by differences."""
    assert point.label in LABELS
    assert point.evidence
    assert all(isinstance(sentence, str) and sentence for sentence in point.evidence)
    assert len(point.reasons) == len(point.evidence)
    assert any(ch.isdigit() for ch in " ".join(point.evidence)), point.evidence
    if point.label == "not_critical":
        assert not point.certified
    if point.label == "saddle" and point.certified:
        assert point.index_at_least >= 1
        assert point.lowest.eigenvalues[0] < -point.zero_band
        assert point.highest.eigenvalues[0] > point.zero_band
    if point.escape_direction is not None:
        leaves = [np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(point.escape_direction)]
        direction = np.concatenate(leaves)
        assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-3)
        assert point.lowest.eigenvalues[0] < 0


# ---------------------------------------------------------------- the four types


@pytest.mark.parametrize("n", [2, 3, 40])
@pytest.mark.parametrize("away", [0.0, 3e-4])
@pytest.mark.parametrize(
    ("label", "signs"), [("minimum", (1, 1)), ("maximum", (-1, -1)), ("saddle", (-1, 1))]
)
def test_quadratics(n, away, label, signs):
    half = n // 2
    d = np.r_[signs[0] * np.linspace(0.5, 1, half), signs[1] * np.linspace(1, 2, n - half)]
    loss, params, data = quadratic(d, seed=n, away=away)
    point = hp.classify(loss, params, data)
    assert point.label == label
    assert point.certified
    assert point.strict
    assert_sound(point, loss, params, data)
    gradient = np.linalg.norm(np.sort(d)[[0, -1]]) if away else 0.0
    assert point.grad_norm <= gradient * max(away, 1) + 1e3 * EPS
    # The Newton step explains nine tenths of the gradient or more.
    np.testing.assert_allclose(point.distance, away, rtol=0.1, atol=1e3 * EPS)
    if label == "saddle":
        assert 1 <= point.index_at_least <= half
        np.testing.assert_allclose(point.lowest.eigenvalues, [d.min()], rtol=0.3)


def test_the_lecture_s_example():
    """(1 − w₁w₂)² at the origin: eigenvalues ∓2, and (1, 1)/√2 is the way down."""
    point = hp.classify(problems.lecture_loss, {"w1": array(0.0)[0], "w2": array(0.0)[0]})
    assert point.label == "saddle"
    np.testing.assert_allclose(point.lowest.eigenvalues, [-2], atol=1e3 * EPS)
    np.testing.assert_allclose(point.highest.eigenvalues, [2], atol=1e3 * EPS)
    direction = np.array([float(point.escape_direction[name]) for name in ("w1", "w2")])
    np.testing.assert_allclose(np.abs(direction), [math.sqrt(0.5)] * 2, atol=1e-3)
    assert direction[0] * direction[1] > 0
    assert point.loss == 1.0
    assert point.critical_loss == 1.0
    assert point.distance == 0


def one_variable(p, factors):
    return jnp.sum(factors * jnp.stack([p**2, p**3, p**4, jnp.cos(p)]))


@pytest.mark.parametrize(
    ("factors", "label"), [((1, 0, 0, 0), "minimum"), ((-1, 0, 0, 0), "maximum"), ((0, 0, 0, 1), "maximum")]
)
def test_one_variable(factors, label):
    point = hp.classify(one_variable, np.zeros((), FLOAT), array(*factors))
    assert point.label == label
    assert point.certified


@pytest.mark.parametrize(
    ("factors", "label"), [((0, 1, 0, 0), "saddle"), ((0, 0, 1, 0), "minimum"), ((0,) * 4, "degenerate")]
)
def test_second_order_is_silent_in_one_variable(factors, label):
    point = hp.classify(one_variable, np.zeros((), FLOAT), array(*factors))
    assert point.label == label
    assert not point.strict
    assert not point.certified


def test_a_large_saddle_is_cheap():
    d = np.r_[-1.0, np.linspace(0.1, 2, 4999)]
    loss, params, data = quadratic(d, seed=1)
    point = hp.classify(loss, params, data)
    assert point.label == "saddle"
    assert point.certified
    assert point.num_hvps <= 25
    assert_sound(point, loss, params, data)


@pytest.mark.parametrize(("sign", "label"), [(1, "minimum"), (-1, "maximum")])
def test_a_minimum_by_lanczos_is_a_probability(sign, label):
    """500 variables: more than the dense route takes, so the claim carries its confidence."""
    loss, params, data = quadratic(sign * np.linspace(0.5, 1.5, 500), seed=2)
    point = hp.classify(loss, params, data)
    assert point.label == label
    assert not point.certified
    assert point.confidence == 0.99
    assert sign < 0 or point.index_at_least == 0
    assert point.reasons.count("none_beyond") == 1
    assert "0.99" in repr(point)
    assert point.num_hvps < 400


@pytest.mark.parametrize("negative", [-0.02, -0.3, -10.0])
@pytest.mark.parametrize("seed", range(3))
def test_one_negative_direction_in_400_is_seen(negative, seed):
    loss, params, data = quadratic(np.r_[negative, np.linspace(0.5, 1.5, 399)], seed=seed)
    point = hp.classify(loss, params, data, key=jax.random.key(seed))
    assert point.label == "saddle"
    np.testing.assert_allclose(point.lowest.eigenvalues, [negative], rtol=0.5)


@pytest.mark.parametrize("share", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("n", [3, 40, 400])
def test_a_saddle_by_a_little(share, n):
    """Negative curvature of 1e-6‖H‖: certain in float64, below rounding in float32."""
    loss, params, data = quadratic(np.r_[-share, np.linspace(0.1, 1, n - 1)], seed=n)
    point = hp.classify(loss, params, data)
    if share > 200 * EPS:
        assert point.label == "saddle"
    else:
        assert point.label in {"saddle", *NO_TYPE}


@pytest.mark.parametrize("name", ["badly scaled", "low rank", "rank 1", "flat", "badly scaled, one negative"])
@pytest.mark.parametrize("n", [40, 400])
def test_hard_spectra_are_never_given_a_wrong_label(name, n):
    spectrum, right = {
        "badly scaled": (np.logspace(-9, 0, n), {"minimum"}),
        "low rank": (np.r_[np.zeros(n // 2), np.linspace(0.1, 1, n - n // 2)], {"minimum"}),
        "rank 1": (np.r_[1.0, np.zeros(n - 1)], {"minimum"}),
        "flat": (np.zeros(n), set()),
        "badly scaled, one negative": (np.r_[-1e-5, np.logspace(-9, 0, n - 1)], {"saddle"}),
    }[name]
    loss, params, data = quadratic(spectrum, seed=n)
    assert hp.classify(loss, params, data, max_hvps=150).label in right | NO_TYPE


# ---------------------------------------------------------------- invariances


def saddle(p, scale):
    factor, offset, unit = scale
    q = p / unit
    return factor * (jnp.cos(q[0]) - 0.5 * jnp.cos(2 * q[1]) + 0.1 * q[2] ** 2) + offset


def minimum(p, scale):
    factor, offset, unit = scale
    q = p / unit
    return factor * (-jnp.cos(q[0]) - jnp.cos(2 * q[1]) + jnp.exp(q[2]) - q[2]) + offset


def not_critical(p, scale):
    factor, offset, unit = scale
    q = p / unit
    return factor * (jnp.exp(q[0]) + q[1] ** 2 + 0.1 * jnp.sin(q[2])) + offset


FAMILY = {"saddle": saddle, "minimum": minimum, "not_critical": not_critical}


def family(label, at=3e-4, factor=1.0, offset=0.0, unit=1.0, sign=1.0):
    """Classify one of the three functions, in other units; what changes is data: one compilation."""
    scale = tuple(FLOAT.type(x) for x in (sign * factor, offset, unit))
    return hp.classify(FAMILY[label], array(at, -at, at) * FLOAT.type(unit), scale)


@pytest.mark.parametrize("label", FAMILY)
@pytest.mark.parametrize("at", [0.0, 3e-4])
@pytest.mark.parametrize("factor", [1e-30, 1e-12, 1e-3, 1.0, 1e6, 1e12, 1e30])
def test_a_positive_factor_changes_no_label(label, at, factor):
    assert family(label, at, factor).label == label


@pytest.mark.parametrize("power", [-250, -160, 160, 250])
@pytest.mark.parametrize("label", FAMILY)
def test_factors_whose_squares_do_not_exist(label, power, x64):
    assert family(label, factor=10.0 ** (power if x64 else power / 9)).label == label


@pytest.mark.parametrize("label", FAMILY)
@pytest.mark.parametrize("at", [0.0, 3e-4])
@pytest.mark.parametrize("offset", [-3.0, 1e4, -1e8])
def test_a_constant_changes_no_label(label, at, offset):
    assert family(label, at, offset=offset).label == label


@pytest.mark.parametrize("unit", [1e-6, 1e6])
@pytest.mark.parametrize("label", ["saddle", "minimum"])
def test_the_units_of_the_parameters_change_no_label(label, unit):
    """x in nanometres or in kilometres: the same function of x/unit.

    Off the point, distances are judged against the larger of |x| and 1.  In large units that is |x|
    itself, and a step as long as x is a slope, as for any bowl seen from as far away as its origin.
    """
    assert family(label, 0.0, unit=unit).label == label
    allowed = {label, "undetermined"} | ({"not_critical"} if unit > 1 else set())
    assert family(label, 3e-4, unit=unit).label in allowed


@pytest.mark.parametrize("label", FAMILY)
def test_minus_the_loss_is_the_mirror_image(label):
    swap = {"minimum": "maximum", "maximum": "minimum"}
    plus, minus = family(label), family(label, sign=-1)
    assert plus.label == label
    assert minus.label == swap.get(label, label)
    np.testing.assert_allclose(plus.lowest.eigenvalues, -minus.highest.eigenvalues, rtol=1e-2)
    np.testing.assert_allclose(plus.grad_norm, minus.grad_norm, rtol=1e-5)


def test_the_same_call_gives_the_same_answer():
    loss, params, data = quadratic(np.linspace(-1, 2, 40))
    one, two = (hp.classify(loss, params, data) for _ in range(2))
    assert one.evidence == two.evidence
    assert one.num_hvps == two.num_hvps
    np.testing.assert_array_equal(one.escape_direction, two.escape_direction)


# ---------------------------------------------------------------- slopes, traps, plateaus


def no_critical_point(p):
    """x³/3 + 1e-6x has none, whatever stands beside it; facts: x²/2, 1e-4y²/2."""
    return 0.5 * p[0] ** 2 + (p[1] ** 3 / 3 + 1e-6 * p[1]) + 0.5e-4 * p[2] ** 2


def tail(p):
    """exp(−w) has no minimum, but Newton's step there is always 1."""
    return 0.5 * (p[0] - 20) ** 2 + 0.5e-3 * (p[1] - 20) ** 2 + 2e-3 * jnp.exp(-p[2])


def tail_beside_a_saddle(p):
    return 0.5 * (p[0] ** 2 - p[1] ** 2) + 1e-3 * jnp.exp(-p[2])


def sharp_and_tail(p):
    """A float32 trap: the rounding of the sharp direction is larger than the slope of the other."""
    return 0.5e4 * (p[0] - 100) ** 2 + jnp.exp(-p[1])


def far_out(p):
    return jnp.exp(-p[0]) + 0.5 * jnp.exp(-p[0]) * p[1] ** 2


def separable(p):
    """Logistic regression of separable samples: no minimum at any distance."""
    x = jnp.asarray([[1.0, 2.0], [2.0, -0.5], [0.5, 0.5]], p.dtype)
    return jnp.mean(jax.nn.softplus(-(x @ p[:2]))) + 0.5e-3 * p[2] ** 2


def bell(p):
    """exp(−|x|²/2) far out: a gradient of 1e-196 in float64 and no critical point near."""
    return jnp.exp(-0.5 * jnp.sum(p * p))


def hidden_slope(p):
    """y³/6 + 0.0018y rises throughout; Newton's step explains nine tenths without it."""
    return 0.5 * jnp.sum(p[:-1] ** 2) + p[-1] ** 3 / 6 + 1.8e-3 * p[-1]


def bumps(p, hills):
    """Gaussian hills and hollows; from their flanks Newton's steps run off to where all is flat."""
    centres, heights = hills
    return jnp.sum(heights * jnp.exp(-0.5 * jnp.sum((p[None, :] - centres) ** 2, axis=1)))


def beside(n):
    return [0.02, *[0.0] * (n - 2), -0.01]


SLOPES = {
    "hidden slope, 20": (hidden_slope, beside(20)),
    "hidden slope, 60": (hidden_slope, beside(60)),
    "cubic 2e-3": (no_critical_point, [0, 2e-3, 0]),
    "cubic 1e-3": (no_critical_point, [0, 1e-3, 0]),
    "cubic 1e-2": (no_critical_point, [0, 1e-2, 0]),
    "tail": (tail, [20, 20, 0]),
    "tail, far": (tail, [20, 20, 5]),
    "tail beside a saddle": (tail_beside_a_saddle, [0, 0, 0]),
    "sharp and tail": (sharp_and_tail, [100, 1.2]),
    "sharp and tail, far": (sharp_and_tail, [100, 4.0]),
    "far out": (far_out, [30.0, 0.0]),
    "separable 1": (separable, [1, 1, 0]),
    "separable 8": (separable, [8, 8, 0]),
    "separable 20": (separable, [20, 20, 0]),
    "flank 1": (bumps, [0.0, -2.1], ([(0.8, 0.5), (1.4, 0.3), (-0.1, 0.5)], [0.2, -0.8, 0.3])),
    "flank 2": (bumps, [4.2, -1.8], ([(0.8, -1.4), (1.4, -0.5), (2.3, 0.5)], [0.3, -1.6, 1.2])),
    "bell": (bell, [30.0, 5.0]),
    "bell, near": (bell, [3.0, 1.0]),
}


@pytest.mark.parametrize("name", SLOPES)
def test_a_slope_without_a_critical_point_is_given_no_type(name):
    loss, at, *hills = SLOPES[name]
    point = hp.classify(loss, array(*at), *(tuple(array(*x) for x in part) for part in hills))
    assert point.label in {"not_critical", "undetermined", "degenerate"}, point
    assert_sound(point, loss, at)


def test_a_slope_reports_its_curvature_and_the_way_down():
    point = hp.classify(lambda p: jnp.sin(p[0]) + p[1] ** 2, array(2.0, 0.0))
    assert point.label == "not_critical"
    np.testing.assert_allclose(point.lowest.eigenvalues, [-math.sin(2.0)], rtol=1e-2)
    np.testing.assert_allclose(point.highest.eigenvalues, [2], rtol=1e-2)
    # d sin/dx = cos 2 < 0: downhill is to larger x
    assert point.escape_direction[0] > 0.99
    assert math.isnan(point.distance)


@pytest.mark.parametrize("known", truth_points("trap"), ids=lambda known: known.name)
def test_traps(known):
    cast = known.astype(FLOAT)
    assert hp.classify(cast.loss, *cast.args).label in known.accepted | {"undetermined"}


def banana(p):
    return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2


@pytest.mark.parametrize("at", [(0.9, 0.81), (0.0, 0.0), (-1.0, 1.0), (1.2, 1.4), (-0.5, 0.3)])
def test_the_banana_valley_is_not_its_minimum(at):
    assert hp.classify(banana, array(*at)).label in NO_CLAIM


def test_the_end_of_the_banana_valley_is_its_minimum(x64):
    assert hp.classify(banana, array(1, 1)).label == "minimum"
    near = hp.classify(banana, array(1.001, 1.002))
    if x64:
        assert near.label == "minimum"
        np.testing.assert_allclose(near.distance, math.hypot(0.001, 0.002), rtol=0.2)
    else:
        assert near.label in {"minimum", "undetermined"}
    # The curvature there is 0.4 and 1,002, and stays so; what is left of the gradient is rounding.
    assert "saddle_vanishing" not in near.reasons


def concave_kink(p):
    """A bowl with −|x − 10|: a local maximum in x, though every derivative that JAX takes says not."""
    x = p[0] - 10
    return jnp.sum((p - 10) ** 2) - jax.nn.relu(x) - jax.nn.relu(-x)


def rectified(p):
    """w² − relu(w) falls to the right of 0."""
    return p["w"] ** 2 - jax.nn.relu(p["w"]) + (p["c"] - 10) ** 2


def rectified_between(p):
    """The same, with more and with less curved directions around it: neither end shows the kink."""
    q = p["c"] - 10
    return p["w"] ** 2 - jax.nn.relu(p["w"]) + 0.3 * q[0] ** 2 + 2 * q[1] ** 2


def rectified_among_many(p):
    """One kink among many smooth directions: a random one holds a fourteenth of it."""
    curvatures = jnp.linspace(0.5, 1.5, p["c"].size, dtype=FLOAT)
    return p["w"] ** 2 - jax.nn.relu(p["w"]) + jnp.sum(curvatures * (p["c"] - 10) ** 2)


INPUTS = np.random.default_rng(0).standard_normal((20, 3)).astype(FLOAT)


def rectifier_network(p):
    """Units that sum to 1 with biases of 1/4, all weights zero: raising a bias lowers the loss."""
    hidden = jax.nn.relu(INPUTS @ p["weight"] + p["bias"][None, :])
    others = 0.5 * jnp.sum((p["a"] - 1) ** 2) + 0.005 * jnp.sum((p["b"] - 1) ** 2)
    decay = 0.01 * (jnp.sum(p["weight"] ** 2) + jnp.sum(p["bias"] ** 2))
    return jnp.mean((jnp.sum(hidden, axis=1) - 1) ** 2) + decay + others


def stairs(p):
    """A bowl on stairs that go down outwards: the derivative does not see them."""
    return 0.1 * jnp.sum(p**2) - 10.0 * jnp.sum(jnp.floor(jnp.abs(p) * 2**10))


KINKS = {
    "concave kink": (concave_kink, array(10, 10)),
    "rectifier": (rectified, {"w": FLOAT.type(0), "c": FLOAT.type(10)}),
    "rectifier beside much": (rectified, {"w": FLOAT.type(0), "c": FLOAT.type(10.001)}),
    "rectifier between": (rectified_between, {"w": FLOAT.type(0), "c": array(10, 10)}),
    "rectifier among many": (
        rectified_among_many,
        {"w": FLOAT.type(0), "c": np.full(200, 10, FLOAT)},
    ),
    "rectifier network": (
        rectifier_network,
        {
            "weight": np.zeros((3, 4), FLOAT),
            "bias": np.zeros(4, FLOAT),
            "a": np.ones(2, FLOAT),
            "b": np.ones(2, FLOAT),
        },
    ),
    "stairs": (stairs, array(0, 0)),
}


@pytest.mark.parametrize("name", KINKS)
def test_a_kink_that_falls_away_is_no_minimum(name):
    """The loss is lower arbitrarily near: only a look at the loss, close by, can tell."""
    loss, params = KINKS[name]
    assert hp.classify(loss, params).label in {"saddle", *NO_TYPE, "not_critical"}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.slow
def test_stretches_of_real_training(state):
    pytest.importorskip("sklearn")
    known = plateau_points(0, ["tanh"], [state])[0].astype(FLOAT)
    point = hp.classify(known.loss, *known.args)
    assert_sound(point, known.loss, *known.args)
    if state == "plateau":
        assert point.label == "saddle", point
        assert 0 < point.distance < 2
        assert point.escape_direction is not None
    else:
        assert point.label in NO_CLAIM, point


# ---------------------------------------------------------------- bad input, noise


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_loss_that_is_not_finite(value):
    point = hp.classify(lambda p: jnp.sum(p**2) + value, array(1, 2))
    assert point.label == "undetermined"
    assert point.reasons[0] == "loss_nonfinite"
    assert str(value) in point.evidence[0]
    assert point.escape_direction is None
    assert "UNDETERMINED" in repr(point)


def test_parameters_that_are_not_finite_are_named():
    params = {"good": array(1, 2), "bad": array(1, np.nan)}
    point = hp.classify(lambda p: jnp.sum(p["good"]) + jnp.sum(p["bad"]), params)
    assert point.label == "undetermined"
    assert point.reasons[0] == "params_nonfinite"
    assert "params['bad']" in point.evidence[0]


def test_a_gradient_that_is_not_finite_is_named():
    params = {"fine": array(1, 2), "root": array(0, 1)}
    point = hp.classify(lambda p: jnp.sum(p["fine"] ** 2) + jnp.sum(jnp.sqrt(p["root"])), params)
    assert point.label == "undetermined"
    assert "gradient_nonfinite" in point.reasons
    assert "params['root']" in " ".join(point.evidence)
    assert point.loss == pytest.approx(6.0)


def test_a_second_derivative_that_is_not_finite():
    point = hp.classify(lambda p: jnp.sum(jnp.abs(p) ** 1.5), array(0, 1, 2))
    assert point.label == "not_critical"  # by finite steps: the slope at 1 and 2 is 1.5 and more
    assert {"finite_steps_slope", "product_nonfinite"} <= set(point.reasons)
    assert point.grad_norm == pytest.approx(1.5 * math.sqrt(3), rel=1e-5)


def test_a_zero_gradient_makes_no_nan():
    point = hp.classify(lambda p: jnp.sum(p**4) - jnp.sum(p**2), array(0, 0, 0))
    assert point.label == "maximum"
    assert point.grad_norm == 0
    numbers = [point.loss, point.distance, point.critical_loss, point.zero_band]
    assert np.all(np.isfinite([*numbers, *point.lowest.eigenvalues, *point.highest.eigenvalues]))
    assert np.all(np.isfinite(point.escape_direction))


def test_a_loss_that_ignores_a_leaf():
    params = {"used": array(0, 0), "unused": np.ones((3, 2), FLOAT), "empty": np.zeros((0, 3), FLOAT)}
    point = hp.classify(lambda p: jnp.sum(p["used"] ** 2), params)
    assert point.label == "minimum"
    assert not point.strict
    assert point.reasons.count("leaf_ignored") == 1
    assert "params['unused']" in " ".join(point.evidence)
    saddle = hp.classify(lambda p: p["used"][0] ** 2 - p["used"][1] ** 2, params)
    assert saddle.label == "saddle"
    assert not np.any(saddle.escape_direction["unused"])
    nothing = hp.classify(lambda p: 3.0, params)
    assert nothing.label == "degenerate"
    assert nothing.reasons[0] == "no_parameter_read"
    assert "params['used']" in nothing.evidence[0]


def test_leaves_of_every_kind():
    params = {
        "w": array(0.0, 0.0),
        "scalar": array(0.0)[0],
        "empty": np.zeros((0, 3), FLOAT),
        "flat": np.zeros((0,), FLOAT),
        "none": None,
        "step": jnp.asarray(3),
        "flag": True,
        "key": jax.random.key(0),
        "name": "tanh",
        "act": jnp.cos,
    }

    def loss(p):
        return jnp.sum(p["act"](p["w"])) + p["scalar"] ** 2

    point = hp.classify(loss, params)
    assert point.label == "saddle"
    assert point.index_at_least == 2
    assert jax.tree.structure(point.escape_direction) == jax.tree.structure(params)
    assert point.escape_direction["name"] == "tanh"


def test_a_budget_too_small_says_what_would_do():
    loss, params, data = quadratic(np.linspace(0.5, 1.5, 400))
    for budget in (1, 2, 4, 8):
        point = hp.classify(loss, params, data, max_hvps=budget)
        assert point.label == "undetermined"
        assert point.reasons[0] in {"budget_too_small", "not_settled", "newton_budget"}
        assert point.num_hvps <= budget + 3
    saddle = quadratic(np.r_[-1.0, np.linspace(0.5, 1.5, 399)])
    assert hp.classify(*saddle, max_hvps=4).label in {"saddle", "undetermined"}


def test_an_interrupt_gives_what_there_is():
    loss, params, data = quadratic(np.linspace(0.5, 1.5, 400))
    lines = []

    def progress(line):
        lines.append(line)
        if len(lines) == 5:
            raise KeyboardInterrupt

    point = hp.classify(loss, params, data, progress=progress)
    assert point.label == "undetermined"
    assert point.reasons[0] == "interrupted"
    assert "not_settled" not in point.reasons
    assert point.lowest.eigenvalues[0] >= 0.5 - 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence"),
        ({"confidence": 0.0}, "confidence"),
        ({"negative_tol": 0.0}, "negative_tol"),
        ({"max_hvps": -1}, "max_hvps"),
        ({"rtol": -1.0}, "rtol"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        hp.classify(jnp.sum, array(0, 0, 0), **options)


def test_both_ends_to_the_accuracy_asked_for():
    d = np.linspace(-1, 2, 40)
    loss, params, data = quadratic(d)
    point = hp.classify(loss, params, data, rtol=1e-4)
    for end, exact in ((point.lowest, -1.0), (point.highest, 2.0)):
        np.testing.assert_allclose(end.eigenvalues, [exact], atol=2e-4)
        assert end.residual_norms[0] <= 1e-4 * 2
        assert bool(end.converged[0])


def test_a_sign_flipped_derivative_is_found_out_by_the_loss():
    """The Hessian claims −2 along y where the loss has +2: a hand-written block with its sign wrong."""

    @jax.custom_vjp
    def flipped(p):
        return jnp.sum(p**2)

    flipped.defvjp(lambda p: (jnp.sum(p**2), p), lambda p, g: (g * 2 * p * array(1, -1),))
    point = hp.classify(flipped, array(0, 0))
    assert point.label == "undetermined"
    assert point.reasons[0] == "derivative_not_of_loss"
    assert point.escape_direction is None
    assert point.index_at_least == 0


def test_a_random_loss_is_given_no_type():
    rng = np.random.default_rng(0)

    def loss(p):
        mask = jax.pure_callback(
            lambda: (rng.random(3) < 0.5).astype(FLOAT), jax.ShapeDtypeStruct((3,), FLOAT)
        )
        return jnp.sum((mask * p) ** 2)

    point = hp.classify(loss, array(0.1, 0, 0))
    assert point.label == "undetermined"
    assert point.reasons[0] in {"gradient_not_repeatable", "product_not_repeatable"}


def test_ragged_batches_do_not_tip_the_label():
    """Weighted by samples the mean is 33/33 positive; the mean of batch means is negative."""

    def loss(p, batch):
        return jnp.mean(batch) * p[0] ** 2 + p[1] ** 2

    data = [np.ones(32, FLOAT), array(-3.0)]
    assert hp.classify(loss, array(0, 0), data).label == "minimum"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters(dtype):
    def loss(p):
        wide = p.astype(jnp.float32)
        return wide[0] ** 2 - wide[1] ** 2

    point = hp.classify(loss, jnp.zeros(2, dtype))
    assert point.label == "saddle"
    assert point.dtype == jnp.dtype(dtype).name


def test_inside_jit_the_error_names_the_cause():
    with pytest.raises(TypeError, match=r"jit|traced"):
        jax.jit(lambda p: hp.classify(jnp.sum, p).loss)(array(0, 0, 0))


# ---------------------------------------------------------------- the result as an object


@pytest.fixture(scope="module")
def saddle_point():
    loss, params, data = quadratic(np.linspace(-1, 2, 40))
    return hp.classify(loss, params, data)


def test_the_report_leads_with_the_verdict(saddle_point):
    text = repr(saddle_point)
    first = text.splitlines()[0]
    assert "SADDLE" in first
    assert "certified" in first
    assert "HVPs" in text
    assert "rray" not in text
    html = saddle_point._repr_html_()
    assert "SADDLE" in html
    assert html.count("<tr>") == html.count("</tr>")


def test_results_survive_pickling(saddle_point):
    copy = pickle.loads(pickle.dumps(saddle_point))
    assert repr(copy) == repr(saddle_point)
    np.testing.assert_array_equal(copy.escape_direction, saddle_point.escape_direction)


def test_results_pass_through_jax(saddle_point):
    seen = []

    @jax.jit
    def use(point):
        seen.append(repr(point))
        seen.append(point._repr_html_())
        return point.lowest.eigenvalues[0] * 2

    assert float(use(saddle_point)) == pytest.approx(2 * saddle_point.lowest.eigenvalues[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), saddle_point)
    nothing = jax.tree.map(lambda _: None, saddle_point)
    strings = jax.tree.map(str, saddle_point)
    for odd in (shapes, nothing, strings):
        assert repr(odd)
        assert odd._repr_html_()
        assert odd.label == "saddle"
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), saddle_point, saddle_point)
    doubled = jax.vmap(lambda point: point.lowest.eigenvalues)(stacked)
    assert doubled.shape == (2, 1)
    assert repr(stacked)


def test_results_of_two_calls_have_one_structure():
    """NaN among the static fields must not make equal structures differ."""
    points = [family("not_critical") for _ in range(2)]
    points.append(pickle.loads(pickle.dumps(points[0])))
    structures = [jax.tree.structure(point) for point in points]
    assert structures[0] == structures[1] == structures[2]


def test_results_are_frozen(saddle_point):
    with pytest.raises(AttributeError):
        saddle_point.label = "minimum"
    with pytest.raises(AttributeError):
        del saddle_point.lowest
