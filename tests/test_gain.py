"""What is left to gain: bounds against dense trust-region solutions, labels at a resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import hessian_probe as hp
from hessian_probe.jobs.checkpoint import Job, Saving
from hessian_probe.points.gain import GainEstimate
from hessian_probe.points.measurements import measure
from hessian_probe.points.settings import Settings
from hessian_probe.points.trust_region import TrustRegion
from hessian_probe.results import number

FLOAT = np.asarray(jnp.zeros(())).dtype


def lowest_within(values, parts, radius):
    """Least value of the quadratic model in a ball, by the secular equation."""
    floor = max(0.0, -values.min())
    if floor == 0 and np.linalg.norm(parts / values) <= radius:
        step = -parts / values
    else:
        sigma = scipy.optimize.brentq(
            lambda s: np.linalg.norm(parts / (values + s)) - radius, floor * (1 + 1e-12) + 1e-13, 1e6
        )
        step = -parts / (values + sigma)
    return float(parts @ step + 0.5 * values @ step**2)


@pytest.mark.parametrize("seed", range(6))
def test_the_bound_lies_above_the_model_and_the_step_reaches_it(seed):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.standard_normal(12) ** 3) if seed % 2 else np.logspace(-6, 0, 12)
    parts, radius = rng.standard_normal(12) * 10.0 ** rng.uniform(-4, 1), 10.0 ** rng.uniform(-2, 1)
    region = TrustRegion(values, parts, np.zeros(12))
    best = -lowest_within(values, parts, radius)
    step, decrease = region.step(radius)
    assert np.linalg.norm(step) <= radius * (1 + 1e-6)
    assert decrease == pytest.approx(best, rel=1e-3)
    assert best * (1 - 1e-9) <= region.bound(radius, 0.0) <= 1.5 * best


@pytest.mark.parametrize("size", [3, 7, 12])
def test_the_bound_holds_in_a_krylov_space(size):
    rng = np.random.default_rng(size)
    values, parts = np.logspace(-4, 0, 40), rng.standard_normal(40)
    basis = np.linalg.qr(np.stack([values**k * parts for k in range(size + 1)], 1))[0]
    matrix = basis.T @ np.diag(values) @ basis
    ritz, weights = np.linalg.eigh(matrix[:size, :size])
    region = TrustRegion(
        ritz, np.linalg.norm(parts) * weights[0] * np.sign(basis[:, 0] @ parts), matrix[size, :size] @ weights
    )
    best = -lowest_within(values, parts, 0.5)
    assert region.step(0.5)[1] <= best * (1 + 1e-9) <= region.bound(0.5, 0.0) * (1 + 1e-6)


def bowl(x):
    return 0.5 * jnp.sum(jnp.array([1.0, 3.0, 0.2]) * (x - 1.0) ** 2) + 0.3


def test_gain_of_a_bowl_is_what_is_left():
    beside = jnp.array([1.001, 1.0, 0.999])
    point = hp.classify(bowl, beside)
    left = float(bowl(beside) - 0.3)
    assert point.label == "minimum"
    assert left <= point.gain * (1 + 1e-3) + 1e-7 <= 4 * left + 1e-6
    assert point.gain <= point.resolution < 1e-5
    assert point.reach == pytest.approx(0.3 * 3**0.5, rel=1e-2)


def test_the_callers_resolution_decides():
    beside = jnp.array([1.03, 1.02, 0.9])  # the loss can fall by 2e-3
    assert hp.classify(bowl, beside).label == "not_critical"
    point = hp.classify(bowl, beside, resolution=0.1)
    assert point.label == "minimum"
    assert point.resolution == 0.1


@pytest.mark.parametrize("resolution", [0.0, -1.0, float("inf"), True, "small"])
def test_a_resolution_that_is_no_positive_number_is_refused(resolution):
    with pytest.raises((TypeError, ValueError), match="resolution="):
        hp.classify(bowl, jnp.ones(3), resolution=resolution)


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_label_gain_and_resolution_follow_the_scale_of_the_loss(factor):
    beside = jnp.array([1.01, 1.0, 0.98])
    one, other = hp.classify(bowl, beside), hp.classify(lambda x: factor * bowl(x), beside)
    assert one.label == other.label
    assert other.gain == pytest.approx(factor * one.gain, rel=0.05)


def orbit(p):
    return (p[0] * p[1] - 2) ** 2 + p[2] ** 2


@pytest.mark.parametrize("distance", [0.0, 1e-8, 1e-6, 1e-4])
def test_beside_a_curve_of_minima_is_a_minimum(distance):
    """The curve p0·p1 = 2; off it the flat direction has curvature that the distance makes."""
    point = hp.classify(orbit, jnp.array([2**0.5, 2**0.5 * (1 + distance), 0.0]))
    assert point.label == "minimum"
    assert not point.strict
    assert point.gain <= point.resolution


def test_a_linear_network_where_bfgs_stops_is_a_minimum():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((40, 4))
    targets = np.tanh(inputs @ rng.standard_normal((4, 2)))

    def loss(v):
        return jnp.mean((inputs @ v[:8].reshape(4, 2) @ v[8:].reshape(2, 2) - targets) ** 2)

    value = jax.jit(jax.value_and_grad(loss))
    start = rng.standard_normal(12)
    found = scipy.optimize.minimize(
        lambda v: tuple(np.asarray(a, np.float64) for a in value(jnp.asarray(v))),
        start,
        jac=True,
        method="BFGS",
    )
    point = hp.classify(loss, jnp.asarray(found.x))
    assert point.label == "minimum"
    assert not point.certified


@pytest.mark.parametrize("far", [3.0, 8.0])
def test_a_tail_is_no_minimum(far):
    point = hp.classify(lambda x: jnp.exp(-x[0]) + x[1] ** 2, jnp.array([far, 0.0]))
    assert point.label == "not_critical"


@pytest.mark.slow
def test_many_flat_directions_do_not_hide_a_minimum():
    """Two layers of 400 variables fit twelve samples: all but a few directions are flat."""
    rng = np.random.default_rng(1)
    inputs, targets = jnp.asarray(rng.standard_normal((12, 10))), jnp.asarray(rng.standard_normal(12))
    start = {
        "w": jnp.asarray(rng.standard_normal((10, 36)) / 3),
        "v": jnp.asarray(rng.standard_normal(36) / 6),
    }
    flat, unravel = ravel_pytree(start)

    def loss(params):
        return jnp.mean((jnp.tanh(inputs @ params["w"]) @ params["v"] - targets) ** 2)

    value = jax.jit(jax.value_and_grad(lambda x: loss(unravel(x))))
    found = scipy.optimize.minimize(
        lambda x: tuple(np.asarray(a, np.float64) for a in value(jnp.asarray(x, flat.dtype))),
        np.asarray(flat, np.float64), jac=True, method="L-BFGS-B",
    )  # fmt: skip
    point = hp.classify(loss, unravel(jnp.asarray(found.x, flat.dtype)))
    assert point.size == 396
    assert point.label == "minimum"
    assert not point.strict
    assert "gain" in point.reasons


def test_a_saddle_says_what_it_can_gain():
    point = hp.classify(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2))
    assert point.label == "saddle"
    assert point.gain == pytest.approx(0.09, rel=1e-3)


def scattered(size, count=8):
    """Batches of ½ Σ w (x − 1 − b)² whose means are those of all data: at x = 1 the gradient is zero."""
    draws = 0.1 * np.random.default_rng(0).standard_normal((count, 16, size))
    weights = jnp.asarray(np.linspace(0.5, 1.5, size))

    def loss(x, batch):
        return 0.5 * jnp.mean(jnp.square(x[None] - 1 - batch) @ weights)

    return loss, [jnp.asarray(each) for each in draws - draws.mean((0, 1))]


@pytest.mark.parametrize("size", [20, pytest.param(450, marks=pytest.mark.slow)])
def test_noise_of_the_data_bounds_the_resolution_at_any_size(size):
    loss, data = scattered(size)
    exact = hp.classify(loss, jnp.ones(size), data, sampled=False)
    point = hp.classify(loss, jnp.ones(size), data)
    assert point.label == exact.label == "minimum"
    assert point.resolution > 5 * exact.resolution


def valley(x):
    return 0.5 * jnp.sum(jnp.logspace(-6, 0, x.size) * (x - 1) ** 2)


@pytest.mark.parametrize("budget", [12, 30, 60])
def test_the_gain_stays_within_the_budget(budget):
    """An ill-conditioned valley of 450 variables, where no budget of these settles the label."""
    point = hp.classify(valley, 1.1 * jnp.ones(450), max_hvps=budget)
    assert point.num_hvps <= budget + 3
    assert point.gain > 0


def product(x):
    """Mean of (UV − T)² for a target T of rank one: minima are orbits of (UA, A⁻¹V)."""
    target = jnp.outer(jnp.array([1.0, -2.0, 0.5]), jnp.array([1.0, 1.0, -1.0, 2.0]))
    return jnp.mean((x["u"] @ x["v"] - target) ** 2)


def test_directions_along_which_the_loss_does_not_change_are_named():
    u, v = np.array([[1.0, -2.0, 0.5], [1.0, 1.0, 0.0]]), np.array([[1.0, 1.0, -1.0, 2.0], [0.0] * 4])
    params = {"u": jnp.asarray(u.T), "v": jnp.asarray(v)}
    point = hp.classify(product, params)
    assert point.label == "minimum"
    assert not point.strict
    assert point.reasons[:3] == ("gain", "flat_families", "flat_at_resolution")
    # All of A but its action where both factors vanish; V has rank one, U two.
    assert " 4 directions" in point.evidence[1]
    flat, unravel = ravel_pytree(params)
    values = np.linalg.eigvalsh(jax.jit(jax.hessian(lambda x: product(unravel(x))))(flat))
    assert f" {int(np.sum(np.abs(values) < 1e-5))} of 14 " in point.evidence[2]


def test_a_strict_minimum_names_no_flat_directions():
    reasons = hp.classify(bowl, jnp.ones(3)).reasons
    assert reasons[0] == "gain"
    assert not {"flat_families", "flat_at_resolution"} & set(reasons)


def test_what_is_left_is_printed_and_passes_through_jax():
    def hill(x):
        return -bowl(x)

    low, high = (hp.classify(loss, jnp.ones(3)) for loss in (bowl, hill))
    slope = hp.classify(bowl, 2 * jnp.ones(3))
    for point, row in ((low, "left to gain"), (high, "left to rise"), (slope, "left to gain")):
        first = repr(point).splitlines()[1]
        assert first.split("  ")[1].startswith(row)
        assert f"(resolution {number(point.resolution, 2)})" in first
        again = jax.tree.map(lambda leaf: leaf, point)
        assert (again.gain, again.resolution, again.reach) == (point.gain, point.resolution, point.reach)
    unknown = hp.classify(bowl, jnp.ones(3), max_hvps=1)
    assert np.isnan(unknown.gain)
    assert "left to" not in repr(unknown)


# Falls along a floor, which a start to one side, a step beyond the reach, or a stiff wall beside would hide.
FLOORS = {
    "cubic": (lambda w: w[0] ** 2 + 1e-4 * w[1] ** 3, [1e-8, 1e-4]),
    "cubic, bent": (lambda w: (1 - w[0] * w[1]) ** 2 + 1e-4 * (w[0] - w[1]) ** 3, [1.005, 1 / 1.005]),
    "quartic, bent": (lambda w: (1 - w[0] * w[1]) ** 2 - 1e-2 * (w[0] - w[1]) ** 4, [1.001, 1 / 1.001]),
    "Peano": (lambda w: (w[1] - w[0] ** 2) * (w[1] - 2 * w[0] ** 2), [0, 1e-6]),
    "among flat ones": (lambda w: jnp.sum(w[:500] ** 2) - w[500] ** 4 + jnp.sum(w[501:] ** 4), [0] * 1000),
}


@pytest.mark.parametrize("name", FLOORS)
def test_a_fall_along_the_floor_of_a_valley_is_found(name):
    loss, at = FLOORS[name]
    for seed in range(3):
        point = hp.classify(loss, jnp.asarray(at, FLOAT), key=jax.random.key(seed))
        assert point.label != "minimum", point


def test_a_rise_on_the_way_ends_the_reach():
    """10t⁴ − 200t⁶ rises by 0.0037 up to t = 0.18 and is below zero from 0.22 on."""
    point = hp.classify(lambda w: w[0] ** 2 + 10 * w[1] ** 4 - 200 * w[1] ** 6, jnp.array([1e-6, 1e-4]))
    assert point.label == "minimum"
    assert "lower_beyond" in point.reasons
    assert 0.02 < point.reach < 0.22


@pytest.mark.parametrize("at", [(14, 0), (14, 1e-6), (12, 1e-4)])
def test_a_tail_shows_beside_what_converges(at, x64):
    point = hp.classify(lambda w: jnp.exp(-w[0]) + w[1] ** 2 / 2, jnp.asarray(at, FLOAT))
    assert point.label == "not_critical" or (not x64 and point.gain <= point.resolution)


def test_a_variable_that_does_not_count_changes_no_label():
    two = hp.classify(lambda w: w[0] ** 2 + w[1] ** 4, jnp.array([1e-6, 1e-4]))
    three = hp.classify(lambda w: w[0] ** 2 + w[1] ** 4 + 0 * w[2], jnp.array([1e-6, 1e-4, 1.0]))
    assert two.label == three.label == "minimum"


def test_leaves_that_the_loss_does_not_read_do_not_widen_the_reach():
    params = {"read": jnp.array([1.0, 1.1]), "unread": 1e5 * jnp.ones(10)}
    point = hp.classify(lambda p: (1 - p["read"][0] * p["read"][1]) ** 2, params)
    assert point.reach < 1


def test_noise_of_few_batches_hardly_depends_on_the_key():
    def loss(w, b):
        return jnp.mean((1 - w[0] * w[1]) ** 2 + 0.5 * b * (w[0] - w[1]))

    noise = np.random.default_rng(0).standard_normal((4, 8))
    batches = list(np.asarray(noise - noise.mean(), FLOAT))
    found = [
        hp.classify(loss, jnp.ones(2), batches, key=jax.random.key(seed)).resolution for seed in range(6)
    ]
    assert max(found) < 10 * min(found)


def test_the_gain_is_no_less_than_the_largest_fall_that_was_seen():
    """At a monkey saddle nothing of second order falls, and the higher order's lower point is at hand."""
    point = hp.classify(lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2 + x[2] ** 2, jnp.zeros(3))
    assert point.label == "saddle"
    lower = point.loss - float((lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2 + x[2] ** 2)(point.descent))
    assert lower > point.resolution
    assert point.gain >= lower * (1 - 1e-3)


@pytest.mark.slow
def test_small_weights_hide_no_lower_loss_at_an_initialisers_scale():
    """All weights of a network of three layers are zero: flat to third order, and its outputs are wrong."""
    rng = np.random.default_rng(0)
    inputs = jnp.asarray(rng.uniform(-1, 1, (64, 1)))
    targets = jnp.sin(3 * inputs)

    def loss(params):
        hidden = jnp.tanh(jnp.tanh(inputs @ params["a"]) @ params["b"])
        return jnp.mean((hidden @ params["c"] - targets) ** 2)

    params = {"a": jnp.zeros((1, 24)), "b": jnp.zeros((24, 24)), "c": jnp.zeros((24, 1))}
    point = hp.classify(loss, params)
    assert point.label not in ("minimum", "maximum")
    assert hp.escape(loss, params, point=point).status == "escaped"


def test_what_falls_on_one_side_alone_is_no_gain_by_curvature():
    """−0.05x² + x³ falls by 0.03 on one side within the reach, and by 1e-5 at most on both."""
    op = hp.hessian(lambda x: x[1] ** 2 - 0.05 * x[0] ** 2 + x[0] ** 3, jnp.zeros(2), check=False)
    rng = np.random.default_rng(0)
    settings = Settings(50, 0.99, 1e-2, None, None, True, False, None)
    found = measure(op, settings, rng, Job("classify", op, {}, Saving(None, 30.0, False)))
    gain = GainEstimate(op, found.extremes, found.rounding, rng, 50).run()
    assert 0 < gain.curvature < 1e-4 < 0.02 < gain.shown


def test_a_lower_loss_whose_gradient_is_not_finite_is_no_gain():
    """Flat up to r = 0.28 on both sides, where the loss is lower and a root's derivative has no end."""
    r = 0.28

    def loss(p):
        u = p[0]
        root = jnp.sqrt(jnp.where(u * u < r * r, r * r - u * u, 0 * u))
        return root + u * u / (2 * r) + 0.2 * u**4 / r**3 + 0.5 * (p[1] - 1) ** 2

    point = hp.classify(loss, jnp.array([0.0, 1.0]))
    assert point.label in ("minimum", "degenerate", "undetermined")
    assert point.gain < 1e-3
