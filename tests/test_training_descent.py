"""Long steps that bend down, and slides: against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe.training.descent import PASSES, TRIALS, descend
from hessian_probe.training.saddle_search import best_trial

pytestmark = pytest.mark.float32

FLOAT = np.asarray(jnp.zeros(())).dtype
LENGTHS = 2.0 * 0.5 ** np.arange(8)


def rung(line, slope, margin=1e-6):
    """The best rung of a function of one length."""
    values = jnp.asarray([line(t) for t in LENGTHS], FLOAT)
    lengths, *rest = (jnp.asarray(number, FLOAT) for number in (LENGTHS, slope, line(0.0), margin))
    return best_trial(lengths, values, *rest)


@pytest.mark.parametrize(
    ("line", "slope", "bent"),
    [
        (lambda t: 1 - t, -1.0, False),
        (lambda t: 1 - t + 0.2 * t**2, -1.0, False),
        (lambda t: 1 - 1e-3 * t - t**2, -1e-3, True),
        (lambda t: 1 - 1e-9 * t - t**6, -1e-9, True),
        (lambda t: 1 + t**2 * (1 - t) * 3, 0.0, False),
        (lambda t: 1 - 1e-9 * t, -1e-9, False),
        (lambda t: np.nan if t > 1 else 1 - t**4, 0.0, True),
    ],
    ids=["slope", "bowl", "saddle", "higher order", "wall", "rounding", "not finite"],
)
def test_only_a_way_that_bends_down_without_a_wall_is_bent(line, slope, bent):
    found = rung(line, slope)
    assert bool(found.bent) == bent
    assert np.isfinite(float(found.value))


def steepest(loss, x, step, going=True):
    x, step = (jnp.asarray(x, FLOAT),), (jnp.asarray(step, FLOAT),)
    first = loss((x[0] + step[0],))
    return first, jax.jit(lambda: descend(loss, x, loss(x), step, first, jnp.asarray(going)))()


def test_a_slide_ends_at_the_bottom_of_a_bowl():
    """Behind a saddle at 0 the loss is a round bowl around 3: a parabola through two values is exact."""

    def loss(x):
        return jnp.sum((x[0] - 3.0) ** 2) - 4.0

    _, found = steepest(loss, [0.0, 0.0], [1.0, 0.5])
    np.testing.assert_allclose(found.step[0], [3, 3], atol=1e-3)
    np.testing.assert_allclose(found.value, -4, atol=1e-3)
    assert 1 <= int(found.num_passes) <= 6
    assert int(found.num_losses) >= TRIALS * int(found.num_passes)


def test_a_slide_never_ends_higher_and_stops():
    def loss(x):
        return 100.0 * (x[0][1] - x[0][0] ** 2) ** 2 + (1 - x[0][0]) ** 2

    first, found = steepest(loss, [0.0, 0.0], [-1.0, 1.2])
    assert float(found.value) <= float(first)
    np.testing.assert_allclose(found.value, loss((found.step[0],)), rtol=1e-4)
    assert int(found.num_passes) <= PASSES


def test_no_slide_costs_nothing():
    def loss(x):
        return jnp.sum(x[0] ** 2)

    first, found = steepest(loss, [1.0, 1.0], [0.5, 0.5], going=False)
    assert int(found.num_passes) == 0
    assert int(found.num_losses) == 0
    assert float(found.value) == float(first)
