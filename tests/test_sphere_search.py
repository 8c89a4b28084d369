"""The search on spheres: how far it goes, that it stays there, and what counts as found."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.operators.objective import Objective
from hessian_probe.points import sphere_search as spheres
from hessian_probe.points.thresholds import SPHERE_CHECKS, SPHERE_RADII, SPHERE_STEPS

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
ON_FIRST = SPHERE_STEPS + 2 * SPHERE_CHECKS
TARGET = np.array([[1.0, 0.2], [-0.3, 0.5]], FLOAT)


def matrices(order, value=0.0):
    """As many 2 × 2 matrices as the saddle has orders."""
    return tuple(jnp.full((2, 2), value, FLOAT) for _ in range(order))


def product(weights):
    """A linear network that learns a target: all derivatives below as many as it has layers vanish at 0."""
    found = weights[0]
    for layer in weights[1:]:
        found = layer @ found
    return 0.5 * jnp.sum((found - TARGET) ** 2)


def bowl(weights):
    """A strict minimum at ones."""
    return 0.5 * sum(jnp.sum((leaf - 1) ** 2) for leaf in weights)


def weighted_product(weights, batch):
    return jnp.mean(batch) * product(weights)


PRODUCT, BOWL, WEIGHTED = (jax.jit(jax.value_and_grad(loss)) for loss in (product, bowl, weighted_product))


def look(both, x, seed=0, *, enough=0.0, change=lambda number, checks, value: value):
    """Search with one compiled loss; what `change` makes of its values is what the search sees."""

    def evaluate(number, there, checks):
        value, gradient = both(there)
        return change(number, checks, float(value)), gradient

    return spheres.search(evaluate, x, jax.random.key(seed), enough=enough)


def moved(x, step):
    return tuple(a + b for a, b in zip(x, step, strict=True))


# Displacements -------------------------------------------------------------------------------


def leaves(*shapes):
    return tuple(jnp.zeros(shape, FLOAT) for shape in shapes)


ADVANCE = jax.jit(spheres.advance)
NONE, ZERO = jnp.zeros((), jnp.bool_), jnp.zeros((), FLOAT)


def begun(x, number=0):
    """A search that begins, the `number`-th of one key."""
    number = jnp.asarray(number, jnp.int32)
    return ADVANCE(spheres.idle(x, FLOAT), spheres.words_of(None), number, x, ZERO, x, ZERO, ~NONE)


def begun_raw(x, number):
    state = spheres.idle(x, FLOAT)
    return spheres.advance(state, spheres.words_of(None), number, x, ZERO, x, ZERO, ~NONE).step[0]


def after_gradient(state, x, gradient):
    number = jnp.zeros((), jnp.int32)
    return ADVANCE(state, spheres.words_of(None), number, x, ZERO, gradient, ZERO, NONE)


def length(leaf):
    return float(np.linalg.norm(np.ravel(leaf)))


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(16, 16)], [16**-0.5]),
        ([(16, 64)], [32**-0.5]),
        ([(64, 16)], [32**-0.5]),
        ([(16, 16), (16,), ()], [16**-0.5, 0, 0]),
        ([(5,), ()], [1, 1]),
        ([(3, 0), (5,)], [1, 1]),
    ],
    ids=["square", "wide", "tall", "biases", "no matrix", "no weight"],
)
def test_weights_are_drawn_by_their_fan(shapes, expected):
    np.testing.assert_allclose(spheres.deviations(leaves(*shapes)), expected, rtol=1e-12)


def test_kernels_are_drawn_alike_in_either_layout_as_an_initialiser_does():
    (height_first,), (outputs_first,) = (
        spheres.deviations(leaves(shape)) for shape in ((3, 3, 16, 32), (32, 16, 3, 3))
    )
    assert height_first == outputs_first
    assert height_first * math.sqrt(9 * math.sqrt(16 * 32)) == pytest.approx(1)


def test_a_displacement_is_as_long_as_a_draw():
    """Uniform, as many initialisers draw: its fourth moment is 9/5 of its squared variance."""
    x = leaves((40, 90), (90,))
    drawn = begun(x).step
    np.testing.assert_allclose(length(drawn[0]), spheres.drawn_length(x), rtol=100 * EPS)
    np.testing.assert_array_equal(drawn[1], 0)
    assert drawn[0].dtype == FLOAT
    np.testing.assert_allclose(jnp.mean(drawn[0] ** 4) / jnp.mean(drawn[0] ** 2) ** 2, 9 / 5, rtol=0.05)
    assert abs(float(jnp.mean(drawn[0]))) < 3 * length(drawn[0]) / drawn[0].size


def test_spheres_are_tried_in_the_order_of_their_radii_each_with_a_draw_of_its_own():
    """A batch that disagrees ends each of them; other searches of the same key draw others."""
    x, drawn = leaves((40, 90)), []
    state = begun(x)
    for radius in SPHERE_RADII:
        np.testing.assert_allclose(length(state.step[0]), radius * spheres.drawn_length(x), rtol=100 * EPS)
        drawn.append(np.ravel(state.step[0]) / length(state.step[0]))
        for _ in range(SPHERE_STEPS + 1):
            state = after_gradient(state, x, x)
    assert not bool(state.going)
    assert not bool(state.found)
    drawn.append(np.ravel(begun(x, 1).step[0]) / spheres.drawn_length(x))
    assert np.max(np.abs(np.asarray(drawn) @ np.asarray(drawn).T - np.eye(4))) < 0.1


def test_without_matrices_every_leaf_is_drawn_at_its_own_scale():
    x = (jnp.zeros(4000, FLOAT), jnp.full(4000, 7.0, FLOAT))
    np.testing.assert_allclose([jnp.std(leaf) for leaf in begun(x).step], [1, 7], rtol=0.05)
    assert spheres.drawn_length(x) == 0


def test_steps_stay_on_the_spheres_of_matrices_and_in_the_balls_of_vectors():
    x = leaves((4, 6), (3, 3, 2, 5), (6,), ())
    state, rng = begun(x), np.random.default_rng(0)
    first, lengths = [length(leaf) for leaf in state.step[:2]], []
    for _ in range(SPHERE_STEPS):
        assert bool(state.going)
        assert not bool(state.checking)
        gradient = tuple(jnp.asarray(1e3 * rng.standard_normal(leaf.shape), FLOAT) for leaf in x)
        state = after_gradient(state, x, gradient)
        lengths.append([length(leaf) for leaf in state.step])
    assert bool(state.checking)
    lengths = np.asarray(lengths)
    np.testing.assert_allclose(lengths[:, :2], np.broadcast_to(first, (SPHERE_STEPS, 2)), rtol=100 * EPS)
    assert np.all(lengths[:, 2:] <= 1 + 10 * EPS)
    assert np.all(lengths[:, 2:] > 0)


def test_steps_shrink_from_three_tenths_of_the_radius_to_a_tenth_of_that():
    """Along gradients at right angles to the displacement; a vector goes straight to the edge of its ball."""
    x = leaves((4, 6), (6,))
    state, rng, ways = begun(x), np.random.default_rng(0), []
    for _ in range(20):
        step = np.asarray(state.step[0], np.float64)
        across = rng.standard_normal(step.shape)
        across -= step * np.sum(step * across) / np.sum(step**2)
        before, state = state, after_gradient(state, x, (jnp.asarray(across, FLOAT), jnp.ones(6, FLOAT)))
        ways.append(length(state.step[0] - before.step[0]) / length(step))
    shares = 0.3 * (1 - 0.9 * np.arange(20) / 20)
    np.testing.assert_allclose(ways, 2 * np.sin(np.arctan(shares) / 2), rtol=1e3 * EPS)
    np.testing.assert_allclose(state.step[1], -(6**-0.5), rtol=100 * EPS)


@pytest.mark.parametrize("value", [0.0, 1e-30, 1e30])
def test_gradients_whose_squares_underflow_or_overflow_never_move_far(value):
    """In float32 the squares of both do; then the step is short, or none."""
    x = leaves((4, 6), (3, 3, 2, 5), (6,), ())
    state = begun(x)
    after = after_gradient(state, x, tuple(jnp.full_like(leaf, value) for leaf in x))
    for new, old in zip(after.step, state.step, strict=True):
        assert np.all(np.isfinite(new))
        assert length(new - old) <= 0.35 * max(length(old), 1)
        if value == 0:
            np.testing.assert_allclose(new, old, rtol=10 * EPS)
    assert int(after.turn) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_spoils_its_own_sphere_only(value):
    found = look(PRODUCT, matrices(3))

    def evaluate(number, there, checks):
        loss, gradient = PRODUCT(there)
        spoilt = tuple(jnp.full_like(leaf, value) for leaf in gradient)
        return float(loss), spoilt if number == 3 else gradient

    spoilt = spheres.search(evaluate, matrices(3), jax.random.key(0))
    assert found.radius == SPHERE_RADII[0] > spoilt.radius
    assert np.all(np.isfinite(np.asarray(spoilt.step)))


def test_a_gradient_that_is_not_finite_leaves_a_step_that_is_checked_alone():
    """The losses alone decide then; the last of four gradients is NaN."""
    x = matrices(3)
    checks = []

    def evaluate(number, there, checks_now):
        loss, gradient = PRODUCT(there)
        checks.append(checks_now)
        bad = checks_now and number >= SPHERE_STEPS
        return float(loss), tuple(jnp.full_like(leaf, jnp.nan) for leaf in gradient) if bad else gradient

    found = spheres.search(evaluate, x, jax.random.key(0))
    assert any(checks)
    assert found.radius == SPHERE_RADII[0]
    assert np.all(np.isfinite(np.asarray(found.step)))


def test_lanes_of_vmap_draw_what_they_draw_alone():
    x = leaves((4, 6))
    numbers = jnp.asarray([0, 1, 5], jnp.int32)
    together = jax.vmap(lambda number: begun_raw(x, number))(numbers)
    for index, number in enumerate((0, 1, 5)):
        alone = np.asarray(begun(x, number).step[0])
        # The same draws; lengths are summed in another order.
        np.testing.assert_allclose(together[index], alone, rtol=4 * np.finfo(alone.dtype).eps)


# What is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [2, 3, 4, 6])
def test_exact_saddles_of_every_order_are_left(order):
    """Zero matrices: gradient and Hessian show nothing from the third order on."""
    x = matrices(order)
    before = float(PRODUCT(x)[0])
    found = look(PRODUCT, x)
    assert found.step is not None
    after = float(PRODUCT(moved(x, found.step))[0])
    assert after < before - 0.01
    np.testing.assert_allclose(found.gain, before - after, rtol=1e3 * EPS)
    assert found.radius in SPHERE_RADII
    if found.radius == SPHERE_RADII[0]:
        assert found.num_gradients == ON_FIRST == 28
    assert found.num_gradients <= spheres.MOST_EVALUATIONS == len(SPHERE_RADII) * 28


def test_the_same_key_finds_the_same():
    x = matrices(3)
    one, two, other = (look(PRODUCT, x, seed) for seed in (5, 5, 6))
    assert one[1:] == two[1:]
    for a, b, c in zip(one.step, two.step, other.step, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


@pytest.mark.parametrize("seed", range(5))
def test_a_strict_minimum_is_not_left(seed):
    found = look(BOWL, matrices(2, 1.0), seed)
    assert found.step is None
    assert (found.gain, found.radius) == (0, 0)
    # The first batch that is asked says no, on each sphere.
    assert found.num_gradients == len(SPHERE_RADII) * (SPHERE_STEPS + 2)


@pytest.mark.parametrize("denies", range(SPHERE_CHECKS))
def test_one_batch_that_disagrees_ends_a_sphere(denies):
    """Whichever of the four it is, and however little it disagrees."""
    seen = []

    def change(number, checks, value):
        # Asked twice: at the variables first.
        asked = seen.count(number) if checks else 0
        seen.append(number)
        turn = number % (SPHERE_STEPS + denies + 1)
        return 1e-6 * asked if checks and turn == SPHERE_STEPS + denies else value

    found = look(PRODUCT, matrices(2), change=change)
    assert found.step is None
    assert found.num_gradients == len(SPHERE_RADII) * (SPHERE_STEPS + 2 * (denies + 1))


def test_batches_of_alternating_sign_agree_on_nothing():
    x, numbers = matrices(2), []

    def evaluate(number, there, checks):
        numbers.append(number)
        value, gradient = WEIGHTED(there, jnp.full(1, (-1.0) ** number, FLOAT))
        return float(value), gradient

    found = spheres.search(evaluate, x, jax.random.key(0))
    assert found.step is None
    assert numbers == sorted(numbers), "numbers count up"
    assert len(numbers) == found.num_gradients <= spheres.MOST_EVALUATIONS


def test_the_mean_gain_must_be_enough():
    x = matrices(2)
    gain = look(PRODUCT, x).gain
    assert look(PRODUCT, x, enough=0.99 * gain).radius == 1
    found = look(PRODUCT, x, enough=10.0)
    assert found.step is None
    assert found.num_gradients == spheres.MOST_EVALUATIONS


@pytest.mark.parametrize(("wall", "radius"), [(0.9, 0.3), (0.25, 0.1)])
def test_a_wall_of_nan_sends_the_search_to_smaller_spheres(wall, radius):
    """The length of each matrix is about 1.4 radii."""

    @jax.jit
    @jax.value_and_grad
    def walled(weights):
        inside = jnp.sum(weights[0] ** 2) < wall**2
        return jnp.where(inside, product(weights), jnp.nan)

    found = look(walled, matrices(2))
    assert found.radius <= radius
    assert found.gain > 0
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in found.step)
    assert float(walled(found.step)[0]) < float(walled(matrices(2))[0])


def test_where_everything_is_nan_nothing_is_found():
    found = look(PRODUCT, matrices(2), change=lambda number, checks, value: math.nan)
    assert found.step is None
    assert found.num_gradients == len(SPHERE_RADII) * (SPHERE_STEPS + 2)


def test_vectors_move_too_where_there_are_matrices():
    """Beside a matrix without effect a bias learns what it can within its ball."""

    @jax.jit
    @jax.value_and_grad
    def bias(p):
        return jnp.sum((p[1] - 0.4) ** 2) + 0 * jnp.sum(p[0])

    x = leaves((2, 2), (2,))
    found = look(bias, x)
    assert found.gain > 0.2
    assert 0 < length(found.step[1]) <= 1 + 10 * EPS


# On data -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [None, 3, 8])
def test_a_search_on_data_enters_its_cost(batches):
    x = matrices(2)
    loss, data = product, None
    if batches is not None:
        loss, data = weighted_product, [np.ones(1, FLOAT)] * batches
    objective = Objective(loss, x, data)
    found = spheres.search_on_spheres(objective, objective.variables, jax.random.key(0))
    assert found.num_gradients == ON_FIRST
    assert objective.cost.num_gradients == found.num_gradients
    there = spheres.moved_by(objective, objective.variables, found.step)
    before, after = (float(product(p)) for p in (x, there))
    np.testing.assert_allclose(found.gain, before - after, rtol=1e3 * EPS)


def test_other_batches_check_than_fit():
    """Every other batch has the opposite sign: what is lower on those that fit is higher on the others."""
    signs = [np.full(1, (-1.0) ** number, FLOAT) for number in range(8)]
    objective = Objective(weighted_product, matrices(2), signs)
    found = spheres.search_on_spheres(objective, objective.variables, jax.random.key(0))
    assert found.step is None


@pytest.mark.any_promotion
def test_variables_keep_their_dtypes():
    x = tuple(leaf.astype(jnp.bfloat16) for leaf in matrices(2))
    objective = Objective(lambda p: product(tuple(w.astype(FLOAT) for w in p)), x)
    found = spheres.search_on_spheres(objective, objective.variables, jax.random.key(0))
    there = spheres.moved_by(objective, objective.variables, found.step)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in there)
    assert all(leaf.dtype == jnp.float32 for leaf in found.step)
