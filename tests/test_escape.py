"""Escapes are proved on the loss: out of saddles and maxima, never upwards, never out of a minimum."""

import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from benchmarks.truth_points import truth_points
from benchmarks.truth_points.networks import plateau_points
from hessian_probe import problems
from hessian_probe.points.sphere_search import SearchResult

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)


def array(*values):
    return np.asarray(values, FLOAT)


def double_well(p):
    """Minima −1/4 at (±1, 0); a saddle with eigenvalues −1 and 2 at the origin."""
    return 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2


def numpy_value(loss, params, *data):
    """The loss once more, outside the library."""
    return float(loss(jax.tree.map(jnp.asarray, params), *data))


def assert_proved(move, loss, params, *data):
    """Both losses are true, and the parameters are never worse than those that came in."""
    before, after = (numpy_value(loss, p, *data) for p in (params, move.params))
    np.testing.assert_allclose(move.loss_before, before, rtol=50 * EPS, atol=50 * EPS)
    np.testing.assert_allclose(move.loss_after, after, rtol=50 * EPS, atol=50 * EPS)
    assert after <= before
    assert move.evidence
    assert jax.tree.structure(move.params) == jax.tree.structure(params)
    gone = [
        np.asarray(a, np.float64) - np.asarray(b, np.float64)
        for a, b in zip(jax.tree.leaves(move.params), jax.tree.leaves(params), strict=True)
    ]
    length = math.sqrt(sum(float(np.sum(g**2)) for g in gone))
    np.testing.assert_allclose(move.distance, length, rtol=1e-3, atol=100 * EPS)
    if move.status == "escaped":
        assert after < before
        assert move.loss_after < move.point.critical_loss or math.isnan(move.point.critical_loss)
    else:
        assert move.params is params
        assert move.distance == 0


def test_out_of_a_saddle_to_the_floor_of_the_valley():
    params = array(0, 0)
    move = hp.escape(double_well, params)
    assert move.status == "escaped"
    assert_proved(move, double_well, params)
    np.testing.assert_allclose(move.loss_after, -0.25, atol=1e-3)
    np.testing.assert_allclose(np.abs(move.params), [1, 0], atol=0.05)
    assert abs(move.step) == move.distance
    np.testing.assert_allclose(move.predicted, -0.5 * move.step**2, rtol=0.05)
    assert "ESCAPED" in repr(move)


@pytest.mark.parametrize("side", [1e-3, -1e-3])
def test_the_slope_decides_the_side(side):
    move = hp.escape(double_well, array(side, 0))
    assert move.status == "escaped"
    assert np.sign(move.params[0]) == np.sign(side)
    assert_proved(move, double_well, array(side, 0))


def test_the_lecture_s_example_is_left_for_its_zero_of_the_loss():
    params = {"w1": FLOAT.type(0), "w2": FLOAT.type(0)}
    move = hp.escape(problems.lecture_loss, params)
    assert move.status == "escaped"
    assert_proved(move, problems.lecture_loss, params)
    np.testing.assert_allclose(move.loss_after, 0, atol=1e-3)
    np.testing.assert_allclose(float(move.params["w1"] * move.params["w2"]), 1, atol=0.05)


def test_out_of_a_maximum():
    def hill(p):
        return jnp.sum(jnp.cos(p))

    move = hp.escape(hill, array(0, 0, 0))
    assert move.status == "escaped"
    assert move.point.label == "maximum"
    assert_proved(move, hill, array(0, 0, 0))


def test_a_minimum_is_left_alone():
    params = array(1, 0)
    move = hp.escape(double_well, params)
    assert move.status == "nothing_to_escape"
    assert move.point.label == "minimum"
    assert_proved(move, double_well, params)
    assert math.isnan(move.predicted)


def test_a_slope_without_negative_curvature_is_left_to_the_gradient():
    """Down to 0 along the exponential's tail."""
    params = array(1.0, 2.0)

    def bowl(p):
        return jnp.exp(p[0]) + p[1] ** 2

    move = hp.escape(bowl, params)
    assert move.status == "nothing_to_escape"
    assert move.reasons[0] == "slope"
    assert move.gain_of_slope > 5
    assert_proved(move, bowl, params)


@pytest.mark.parametrize("seed", range(4))
def test_a_slope_without_end_is_left_to_the_gradient(seed):
    """However far the slope goes, spheres stay as large as the parameters were."""
    params = array(0.0, 0.0)
    move = hp.escape(lambda p: p[0] + 0 * p[1], params, key=jax.random.key(seed))
    assert move.status == "nothing_to_escape"
    assert move.gain_of_slope > 100
    assert move.params is params


def test_negative_curvature_that_shows_no_more_than_the_slope_is_left_to_the_gradient():
    """The sine falls to −1 along its slope too."""
    params = array(2.0, 0.0)

    def waves(p):
        return jnp.sin(p[0]) + p[1] ** 2

    move = hp.escape(waves, params)
    assert move.point.label == "not_critical"
    assert move.point.escape_direction is not None
    assert move.status == "no_decrease"
    assert_proved(move, waves, params)
    np.testing.assert_allclose(move.gain_of_slope, math.sin(2) + 1, rtol=1e-3)


@pytest.mark.parametrize(("left", "status"), [(0.1, "escaped"), (0.3, "no_decrease")])
def test_an_escape_gains_at_least_twice_what_the_slope_does(left, status):
    """A slope along y gains as much as is left of a bowl; across it, a ridge is 1/4 high."""
    params = array(0.0, math.sqrt(left))
    move = hp.escape(double_well, params)
    assert move.status == status
    assert_proved(move, double_well, params)
    if status == "escaped":
        assert move.loss_before - move.loss_after >= 2 * move.gain_of_slope


@pytest.mark.parametrize("loss", [lambda p: jnp.sum(p**4), lambda p: jnp.sum(p**3), lambda p: 0 * p[0]])
def test_where_second_order_is_silent_nothing_is_claimed(loss):
    params = array(0, 0)
    move = hp.escape(loss, params)
    assert move.status in {"undetermined", "nothing_to_escape", "escaped"}
    assert_proved(move, loss, params)


def test_a_loss_without_a_floor_is_not_followed_to_infinity():
    params = array(0.5, 0.0)

    def bottomless(p):
        return p[1] ** 2 - (p[0] - 0.5) ** 2

    move = hp.escape(bottomless, params)
    assert move.status == "escaped"
    assert_proved(move, bottomless, params)
    assert move.distance < 100
    assert np.all(np.isfinite(move.params))


def test_a_loss_that_ends_in_nothing_on_one_side():
    """log(x) is NaN for x < 0: the step goes the other way."""

    def walled(p):
        return -((p[0] - 1) ** 2) + p[1] ** 2 + 0.0 * jnp.log(p[0] - 0.999)

    params = array(1, 0)
    move = hp.escape(walled, params)
    assert_proved(move, walled, params)
    assert np.all(np.isfinite(move.params))
    assert move.status == "undetermined" or move.params[0] > 1


def test_a_steep_wall_beyond_the_valley():
    def wall(p):
        return -0.5 * p[0] ** 2 + (10 * p[0]) ** 20 + p[1] ** 2

    params = array(0, 0)
    move = hp.escape(wall, params)
    assert_proved(move, wall, params)
    assert move.status == "escaped"
    assert abs(move.params[0]) < 0.1


def offset_well(p, offset):
    return double_well(p) + offset[0]


@pytest.mark.parametrize("offset", [-5.0, -1e4, 1e4])
def test_negative_and_large_losses(offset):
    params, batch = array(0, 0), array(offset)
    move = hp.escape(offset_well, params, batch)
    assert_proved(move, offset_well, params, batch)
    if 100 * EPS * abs(offset) < 0.25:
        assert move.status == "escaped"


def test_a_decrease_below_rounding_is_no_escape():
    """A saddle a hundred-millionth of the loss deep, in float32 a tenth of its rounding."""
    depth = 0.1 * EPS

    def loss(p):
        return 1.0 + depth * (jnp.cos(p[0]) + p[1] ** 2)

    params = array(0, 0)
    move = hp.escape(loss, params)
    assert move.status in {"no_decrease", "undetermined"}
    assert_proved(move, loss, params)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_parameters_stay_so(dtype):
    def loss(p):
        wide = p["w"].astype(jnp.float32)
        return 1.0 + double_well(wide)

    params = {"w": jnp.zeros(2, dtype), "step": 7}
    move = hp.escape(loss, params)
    assert move.params["w"].dtype == dtype
    assert move.params["step"] == 7
    assert move.status == "escaped"
    assert numpy_value(loss, move.params) == pytest.approx(move.loss_after, abs=1e-6)
    assert move.loss_after < 0.9


def test_the_mean_over_ragged_batches_decides():
    """Weighted by samples the origin is a saddle along x; the mean of batch means bends it upwards."""

    def loss(p, batch):
        return jnp.mean(batch) * p[0] ** 2 + 0.25 * p[0] ** 4 + p[1] ** 2

    data = [array(*[-1.0] * 32), array(9.0)]
    params = array(0, 0)
    move = hp.escape(loss, params, data)
    assert move.status == "escaped"
    mean = float(np.mean(np.concatenate(data)))
    x, y = (float(v) for v in move.params)
    np.testing.assert_allclose(move.loss_after, mean * x**2 + 0.25 * x**4 + y**2, rtol=1e-4, atol=100 * EPS)
    np.testing.assert_allclose(move.loss_after, -(mean**2), rtol=1e-2)


def test_a_classification_made_before_saves_its_products():
    params = array(0, 0)
    point = hp.classify(double_well, params)
    move = hp.escape(double_well, params, point=point)
    assert move.status == "escaped"
    assert move.point is point
    assert move.num_hvps == point.num_hvps
    np.testing.assert_array_equal(move.params, hp.escape(double_well, params).params)


def wave(p):
    return jnp.cos(p[0]) + p[1] ** 2


ELSEWHERE = {
    "another loss value": (double_well, array(1, 0), "other parameters"),
    "another size": (lambda p: jnp.sum(p**2), array(1, 0, 0), "variables"),
    "another structure": (lambda p: double_well(p["w"]), {"w": array(0, 0)}, "structure"),
}


@pytest.mark.parametrize("what", ELSEWHERE)
def test_a_classification_of_something_else_is_refused(what):
    point = hp.classify(double_well, array(0, 0))
    loss, params, message = ELSEWHERE[what]
    with pytest.raises(ValueError, match=message):
        hp.escape(loss, params, point=point)


def test_what_is_no_classification_is_refused():
    with pytest.raises(TypeError, match=r"hp\.classify; got str"):
        hp.escape(double_well, array(0, 0), point="saddle")


def test_ctrl_c_while_classifying_moves_nothing():
    def progress(said):
        raise KeyboardInterrupt

    params = np.zeros(64, FLOAT)
    move = hp.escape(lambda p: jnp.sum(p**4) - p[0] ** 2, params, progress=progress)
    assert (move.status, move.reasons) == ("undetermined", ("not_classified",))
    assert move.params is params


def test_a_classification_of_other_parameters_with_the_same_loss_does_no_harm():
    """cos x + y²: x = 0 and x = 2π look alike, and x = 1 with y chosen so has the same loss."""
    point = hp.classify(wave, array(0, 0))
    params = array(1.0, math.sqrt(1 - math.cos(1.0)))
    with contextlib.suppress(ValueError):  # refused: better still
        assert_proved(hp.escape(wave, params, point=point), wave, params)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_moves_nothing(value):
    params = array(1, 2)
    move = hp.escape(lambda p: jnp.sum(p**2) + value, params)
    assert move.status == "undetermined"
    assert move.params is params
    assert repr(move)


def test_going_on_downhill_does_not_come_back():
    """R15: gradient descent from where the escape ends stays below the saddle's loss."""

    def shallow(p):
        return 0.25 * p[0] ** 4 - 0.5e-4 * p[0] ** 2 + p[1] ** 2

    params = array(0, 1e-6)
    move = hp.escape(shallow, params)
    assert move.status == "escaped" or EPS > 1e-10
    if move.status == "escaped":
        x, slope = np.asarray(move.params), jax.jit(jax.grad(shallow))
        for _ in range(200):
            x = x - 0.1 * np.asarray(slope(x))
        assert float(shallow(x)) <= move.loss_after + 10 * EPS
        np.testing.assert_allclose(np.abs(x[0]), 1e-2, rtol=0.2)


@pytest.mark.parametrize("known", problems.lecture_points() + truth_points("styblinski_tang")[:3])
def test_from_every_point_of_a_known_table(known):
    cast = known.astype(FLOAT)
    move = hp.escape(cast.loss, *cast.args)
    assert_proved(move, cast.loss, *cast.args)
    expected = {"saddle": {"escaped"}, "maximum": {"escaped"}, "minimum": {"nothing_to_escape"}}
    allowed = expected[known.label] | ({"undetermined"} if known.degenerate else set())
    assert move.status in allowed


def test_python_floats_and_odd_leaves():
    params = {"x": 0.0, "y": 0.0, "none": None, "name": "w", "key": jax.random.key(0), "n": 3}
    move = hp.escape(
        lambda p: 0.25 * p["x"] ** 4 - 0.5 * p["x"] ** 2 + p["y"] ** 2,
        params,
        trainable=lambda leaf: isinstance(leaf, float),
    )
    assert move.status == "escaped"
    assert move.params["name"] == "w"
    assert move.params["n"] == 3
    assert abs(float(move.params["x"])) == pytest.approx(1, abs=0.05)


@pytest.fixture(scope="module")
def plateau():
    pytest.importorskip("sklearn")
    return plateau_points(0, ["tanh"], ["plateau"])[0].astype(FLOAT)


def test_off_a_real_plateau_at_once(plateau):
    """facts: along the most negative curvature the loss can fall by 0.09 there."""
    move = hp.escape(plateau.loss, *plateau.args)
    assert move.status == "escaped"
    assert_proved(move, plateau.loss, *plateau.args)
    assert move.loss_before - move.loss_after > 0.05


SILENT = [
    p for p in truth_points("degenerate") if p.name in {"x2-y4", "monkey", "peano", "xyz", "dixon_price3"}
]


@pytest.mark.parametrize("known", SILENT, ids=lambda known: known.name)
def test_out_of_saddles_that_second_order_does_not_show(known):
    cast = known.astype(FLOAT)
    move = hp.escape(cast.loss, *cast.args)
    assert_proved(move, cast.loss, *cast.args)
    assert move.status == "escaped"


@pytest.fixture
def no_spheres(monkeypatch):
    """Nothing is found on spheres."""
    monkeypatch.setattr(
        "hessian_probe.escapes.escape.search_on_spheres", lambda *args, **_: SearchResult(None, 0.0, 0.0, 0)
    )


@pytest.mark.usefixtures("no_spheres")
def test_a_curved_way_down():
    """Peano: the loss rises along every straight line, and falls along y = 1.5 x²."""
    peano = next(p for p in SILENT if p.name == "peano").astype(FLOAT)
    move = hp.escape(peano.loss, *peano.args)
    assert move.status == "escaped"
    assert math.isnan(move.step)
    assert move.point.escape_direction is None
    there = np.add(peano.params, move.point.descent)
    assert float(peano.loss(there)) < 0
    assert "curved" in repr(move.point)
    assert "descent" in repr(move)


def test_out_of_a_maximum_that_second_order_does_not_show():
    def hill(p):
        return -jnp.sum(p**4)

    move = hp.escape(hill, array(0, 0))
    assert move.point.label == "maximum"
    assert move.status == "escaped"
    assert_proved(move, hill, array(0, 0))


def shallow_saddle(p, data):
    """Σ ¼x⁴ − ½εx² over the first two, and positive curvature along the others."""
    depth, others = data
    x = p[:2]
    return jnp.sum(x**4) / 4 - depth * jnp.sum(x**2) / 2 + jnp.sum(others * p[2:] ** 2) / 2


@pytest.mark.parametrize("budget", [0, 1, 2, 3, 12, None])
@pytest.mark.parametrize("depth", [1e-2, 1e-4, 1e-6])
def test_r15_a_shallow_saddle_is_left_and_never_made_worse(depth, budget):
    """An escape sized to the noise floor stayed, and with more budget wandered and ended worse."""
    params = np.zeros(5, FLOAT)
    data = (FLOAT.type(depth), np.linspace(0.5, 2, 3).astype(FLOAT))
    move = hp.escape(shallow_saddle, params, data, max_hvps=budget)
    assert_proved(move, shallow_saddle, params, data)
    assert budget is None or move.num_hvps <= budget
    if budget in (0, 1, 2, 3):
        assert move.point.label == "undetermined"
        assert move.status == ("escaped" if "fell_on_sphere" in move.reasons else "undetermined")
    elif depth > 100 * EPS:
        assert move.status == "escaped"
        assert move.loss_after < -0.2 * depth**2


# On spheres ----------------------------------------------------------------------------------

TARGET = array([1.0, 0.2], [-0.3, 0.5])


def layers(p):
    """As many layers as there are matrices learn a target: a saddle of that order at the origin."""
    found = p[0]
    for layer in p[1:]:
        found = layer @ found
    return 0.5 * jnp.sum((found - TARGET) ** 2)


def weighted_layers(p, batch):
    return jnp.mean(batch) * layers(p)


def zeros(order):
    return tuple(np.zeros((2, 2), FLOAT) for _ in range(order))


@pytest.mark.parametrize("order", [2, 3, 5])
@pytest.mark.slow
def test_weights_of_zero_are_left_whatever_the_order(order):
    params = zeros(order)
    move = hp.escape(layers, params)
    assert move.status == "escaped"
    assert_proved(move, layers, params)
    assert move.gain_of_slope == 0
    assert move.gain == pytest.approx(move.loss_before - move.loss_after, rel=1e3 * EPS)
    assert move.loss_before - move.loss_after > 0.01


@pytest.mark.parametrize("order", [2, 3, 5])
def test_weights_of_zero_are_left_without_a_product(order):
    params = zeros(order)
    move = hp.escape(layers, params, max_hvps=0)
    assert move.status == "escaped"
    assert move.reasons == ("fell_on_sphere",)
    assert_proved(move, layers, params)
    assert move.num_hvps == 0
    assert math.isnan(move.step)
    assert move.gain == pytest.approx(move.loss_before - move.loss_after, rel=1e3 * EPS)
    assert move.loss_before - move.loss_after > 0.01


def test_a_gain_on_a_sphere_is_that_on_batches_the_step_was_not_fitted_to():
    """Every other of eight batches fits: they weigh less than those that check."""
    params, data = zeros(5), [np.full(1, 1.0 + number % 2, FLOAT) for number in range(8)]
    move = hp.escape(weighted_layers, params, data, max_hvps=0)
    assert "fell_on_sphere" in move.reasons
    assert_proved(move, lambda p: 1.5 * layers(p), params)
    assert move.gain == pytest.approx(2.0 / 1.5 * (move.loss_before - move.loss_after), rel=1e-3)


def quartic(p, batch):
    return jnp.mean(batch) * sum(jnp.sum(w**4) for w in p)


def test_batches_that_agree_do_not_outvote_the_loss():
    """Seven batches are lower with every displacement, and one is higher by more than these together."""
    params = zeros(1)
    data = [np.full(1, 20.0 if number == 0 else -1.0, FLOAT) for number in range(8)]
    move = hp.escape(quartic, params, data, max_hvps=0)
    assert move.status != "escaped"
    assert "nothing_found_on_spheres" in move.reasons
    assert_proved(move, lambda p: 13 / 8 * sum(jnp.sum(w**4) for w in p), params)


def test_the_lower_of_both_points_is_taken(monkeypatch):
    """That along the curvature, which is known, and that on a sphere."""
    known = hp.escape(double_well, array(0, 0))
    assert "fell_by_model" in known.reasons

    def stepping(*to):
        found = SearchResult((jnp.asarray(to, FLOAT),), 0.1, 1.0, 28)
        monkeypatch.setattr("hessian_probe.escapes.escape.search_on_spheres", lambda *args, **_: found)
        return hp.escape(walled_well, array(0, 0))

    def walled_well(p):
        """NaN far away, and a hole."""
        hole = jnp.where(jnp.abs(p[1] - 1) < 0.1, -3.0, 0.0)
        return jnp.where(p[0] > 9, jnp.nan, double_well(p) + hole)

    for to, on_sphere in (((0, 1), True), ((0.5, 0), False), ((10, 0), False)):
        move = stepping(*to)
        assert move.status == "escaped"
        assert ("fell_on_sphere" in move.reasons) == on_sphere
        assert_proved(move, walled_well, array(0, 0))


def test_a_strict_minimum_is_not_searched():
    move = hp.escape(double_well, array(1, 0))
    assert move.reasons == ("minimum",)
    assert move.num_evaluations == move.point.num_evaluations + 1
    assert math.isnan(move.gain_of_slope)
    assert move.gain == 0


def test_the_same_key_finds_the_same():
    one, two, other = (
        hp.escape(layers, zeros(5), key=jax.random.key(seed), max_hvps=0) for seed in (1, 1, 2)
    )
    assert one.loss_after == two.loss_after != other.loss_after


def test_ctrl_c_on_a_sphere_moves_nothing(monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hessian_probe.escapes.escape.search_on_spheres", interrupt)
    params = zeros(5)
    move = hp.escape(layers, params, max_hvps=0)
    assert (move.status, move.reasons) == ("undetermined", ("interrupted",))
    assert move.params is params
