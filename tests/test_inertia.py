"""Units of the loss and of the parameters, offsets, bad scaling, and gradients that vanish for nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
NO_TYPE = {"undetermined", "degenerate"}
NO_CLAIM = NO_TYPE | {"not_critical"}


def form(p, data):
    """½ zᵀAz with z = (p − c)·s: by Sylvester's law the signs are those of A, whatever s."""
    matrix, scales, centre = data
    z = (p - centre) * scales
    return 0.5 * jnp.dot(z, matrix @ z)


def least_squares(p, data):
    x, y = data
    return 0.5 * jnp.sum(jnp.square(x @ p - y))


def spread(n, decades, rng):
    scales = 10 ** np.linspace(0, -decades / 2, n)
    rng.shuffle(scales)
    return scales


@pytest.mark.parametrize("decades", [6, 10, 14, 16])
@pytest.mark.parametrize("truth", ["minimum", "saddle", "maximum"])
def test_parameters_in_units_far_apart(truth, decades, x64):
    """Curvatures 1e6 to 1e16 apart by the units alone: beyond rounding of ‖H‖, not of the scaled Hessian."""
    for n in (5, 20):
        rng = np.random.default_rng(decades)
        vectors, _ = np.linalg.qr(rng.standard_normal((n, n)))
        eigenvalues = np.linspace(0.3, 1, n) * (-1 if truth == "maximum" else 1)
        if truth == "saddle":
            eigenvalues[0] *= -1
        centre = rng.standard_normal(n).astype(FLOAT)
        data = (
            ((vectors * eigenvalues) @ vectors.T).astype(FLOAT),
            spread(n, decades, rng).astype(FLOAT),
            centre,
        )
        point = hp.classify(form, centre, data)
        hessian = data[1][:, None] * np.asarray(data[0], np.float64) * data[1]
        fall = 0.5 * max(-float(np.linalg.eigvalsh(hessian)[0]), 0.0) * (point.reach or 0.0) ** 2
        if point.label == "minimum" and not point.strict:  # the scaled saddle may fall by less than counts
            assert fall <= point.resolution
        else:
            assert point.label in {truth, *NO_TYPE}, point
        if decades <= 14 if x64 else decades <= 6:
            assert point.label == truth, point
            assert point.certified


@pytest.mark.parametrize("decades", [6, 12, 16])
def test_least_squares_of_columns_in_units_far_apart(decades, x64):
    """The solution of a full-rank problem is its one minimum; rounding of ‖H‖ is no negative curvature."""
    for n in (5, 20):
        rng = np.random.default_rng(decades)
        scales = spread(n, decades, rng)
        x = rng.standard_normal((2 * n, n)) * scales
        p = (rng.standard_normal(n) / scales).astype(FLOAT)
        x = x.astype(FLOAT)
        point = hp.classify(least_squares, p, (x, x @ p))
        assert point.label in {"minimum", *NO_TYPE}, point
        if decades <= (12 if x64 else 6):
            assert point.label == "minimum", point


def test_a_flat_direction_is_not_scaled_away():
    """A variable without curvature has no unit: nothing is claimed by scaling, however the others lie."""
    scales = np.array([1, 1e-3, 1e-6, 0], FLOAT)
    data = np.eye(4, dtype=FLOAT), scales, np.ones(4, FLOAT)
    point = hp.classify(form, np.ones(4, FLOAT), data)
    assert not point.strict
    assert not point.certified


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.slow
def test_an_eigenvalue_that_is_zero_to_rounding_has_no_sign_in_any_units(n):
    """½ ‖Bᵀz‖² with n − 1 columns: the lowest eigenvalue of the scaled Hessian is rounding alone.

    Rounding of the matrix is the same in every product, so the loss confirms whatever sign it has.
    """
    for decades in (6, 10):
        scales = (10 ** np.linspace(0, -decades / 2, n)).astype(FLOAT)
        for seed in range(15):
            columns = np.random.default_rng(seed).standard_normal((n, n - 1))
            matrix = (columns @ columns.T).astype(FLOAT)
            zero = np.zeros(n, FLOAT)
            point = hp.classify(form, zero, (matrix, scales, zero))
            assert point.label in {"minimum", *NO_TYPE}, point
            assert not point.strict, point
            assert not point.certified, point


def bumpy(p, units):
    factor, offset, kind = units
    signs = jnp.stack([jnp.ones_like(kind), kind, jnp.ones_like(kind)])
    return factor * jnp.sum(signs * (jnp.cosh(p) - 1)) + offset


@pytest.mark.parametrize("kind", [1, -1])
def test_units_of_the_loss(kind, x64):
    """cosh in three variables, one of them turned over, times anything that floats can hold."""
    powers = (-200, -100, -30, 0, 30, 100, 200) if x64 else (-28, -15, 0, 15, 28)
    truth = "minimum" if kind > 0 else "saddle"
    for power in powers:
        units = tuple(np.asarray(u, FLOAT) for u in (10.0**power, 0.0, kind))
        for at in (0.0, 1e-4):
            assert hp.classify(bumpy, np.full(3, at, FLOAT), units).label == truth, (power, at)


@pytest.mark.parametrize("offset", [1e3, -1e6])
@pytest.mark.parametrize("kind", [1, -1])
def test_a_large_offset_takes_values_away_but_not_slopes(kind, offset):
    units = tuple(np.asarray(u, FLOAT) for u in (1.0, offset, kind))
    assert hp.classify(bumpy, np.zeros(3, FLOAT), units).label == ("minimum" if kind > 0 else "saddle")


def rayleigh(p, d):
    """xᵀDx / xᵀx: critical at the axes, of index k at the k-th, and flat along every ray."""
    return jnp.dot(p, d * p) / jnp.dot(p, p)


@pytest.mark.parametrize("length", [1e-2, 1.0, 1e3])
def test_a_scale_invariant_loss(length):
    """|∇f(cx)| = |∇f(x)|/c: small far out, and still no critical point between the axes."""
    d = np.array([1, 2, 3, 4], FLOAT)
    for axis, truth in enumerate(("minimum", "saddle", "saddle", "maximum")):
        at = np.zeros(4, FLOAT)
        at[axis] = length
        point = hp.classify(rayleigh, at, d)
        assert point.label in {truth, *NO_TYPE}, point
        assert point.label != truth or truth == "saddle" or not point.strict, point
    between = np.array([1, 1, 0.3, 0.2], FLOAT) * FLOAT.type(length)
    assert hp.classify(rayleigh, between, d).label in NO_CLAIM


VANISHING = {
    "exp(-x)": (lambda p: jnp.exp(-p[0]) + p[1] ** 2, (20, 0)),
    "saturated": (lambda p: jnp.mean((jax.nn.sigmoid(p) - 0.5) ** 2), (18, 15, -16)),
    "separable": (lambda p: jnp.mean(jax.nn.softplus(-jnp.stack([p[0] + p[1], 2 * p[0]]))), (12, 3)),
    "softmax": (lambda p: -jax.nn.log_softmax(p)[0] + 1e-3 * p[1] ** 2, (30, 0.5, -1)),
    "x³/3 + 1e-6x": (lambda p: p[0] ** 3 / 3 + 1e-6 * p[0] + p[1] ** 2, (0, 0)),
    "1/x": (lambda p: 1 / p[0] + p[1] ** 2, (1e3, 0)),
    "log": (lambda p: jnp.log1p(jnp.exp(-p[0])) - 1e-3 * p[1] ** 2, (15, 0)),
}


@pytest.mark.parametrize("name", VANISHING)
def test_a_vanishing_gradient_is_no_critical_point(name):
    loss, at = VANISHING[name]
    assert hp.classify(loss, np.asarray(at, FLOAT)).label in NO_CLAIM


@pytest.mark.parametrize("n", [3, 5])
def test_dixon_price_has_a_saddle_that_looks_like_a_minimum(n):
    """Σ i(2xᵢ² − xᵢ₋₁)² + (x₁ − 1)² at (1/3, 0, …): positive semi-definite, and lower values near."""

    def loss(p):
        i = jnp.arange(2, n + 1).astype(p.dtype)
        return (p[0] - 1) ** 2 + jnp.sum(i * (2 * p[1:] ** 2 - p[:-1]) ** 2)

    at = np.zeros(n, FLOAT)
    at[0] = 1 / 3
    assert hp.classify(loss, at).label in {"saddle", *NO_TYPE}


def test_a_minimum_without_a_gradient():
    """Ackley's function at its minimum: the gradient is NaN, finite steps see that all around is higher."""

    def ackley(p):
        mean = jnp.mean(jnp.cos(2 * jnp.pi * p))
        return -20 * jnp.exp(-0.2 * jnp.sqrt(jnp.mean(p * p))) - jnp.exp(mean) + 20 + jnp.e

    point = hp.classify(ackley, np.zeros(2, FLOAT))
    assert point.label == "minimum"
    assert not point.strict
    assert not point.certified


@pytest.mark.parametrize("side", [1e-20, 1e-8] if np.float32 == FLOAT else [1e-180, 1e-20])
@pytest.mark.parametrize(("sign", "label"), [(1.0, "minimum"), (-1.0, "saddle")])
def test_so_near_that_the_loss_underflows(side, sign, label):
    """The square of the distance, and the loss itself, are below the smallest number there is."""
    point = hp.classify(lambda p: p[0] ** 2 + sign * 3 * p[1] ** 2, np.asarray([side, side], FLOAT))
    assert point.label == label


@pytest.mark.any_promotion
@pytest.mark.parametrize("hidden", [3, 8])
@pytest.mark.slow
def test_rounding_of_a_gradient_at_zero_weights_is_no_slope(hidden):
    """Balanced classes guessed alike: the gradient is zero but for its sums, which weights of zero hide."""
    rng = np.random.default_rng(hidden)
    x = jnp.asarray(rng.standard_normal((150, 4)), FLOAT)
    y = jnp.arange(150) % 3

    def loss(p, batch):
        logits = jnp.tanh(batch[0] @ p["w"] + p["b"]) @ p["v"] + p["c"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(150), batch[1]])

    shapes = {"w": (4, hidden), "b": (hidden,), "v": (hidden, 3), "c": (3,)}
    point = hp.classify(loss, {name: jnp.zeros(shape, FLOAT) for name, shape in shapes.items()}, (x, y))
    assert point.label in ("saddle", "undetermined")


@pytest.mark.parametrize("slope", [1e-3, 1e-5])
def test_a_small_slope_at_zero_is_not_taken_for_rounding(slope):
    point = hp.classify(lambda p: p[0] ** 2 - p[1] ** 2 + slope * p[2], np.zeros(3, FLOAT))
    assert point.label in ("not_critical", "undetermined")
