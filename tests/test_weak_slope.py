"""A slope along weak curvature is said to last only where it does: valley floors in closed form.

f = ½ k (y − x²)² + h(x): where the derivative by y vanishes, the one by x is dh/dx.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from benchmarks.truth_points import truth_points
from hessian_probe.operators.hessian import hessian
from hessian_probe.points.weak_slope import weak_slope

FLOAT = np.asarray(jnp.zeros(())).dtype


def valley(p, data):
    """The loss with dh/dx = s ((x − a) / a)ᵖ, or s (1 + x²) for p = 0."""
    stiffness, slope, place, power = data
    x, y = p[0], p[1]
    wall = 0.5 * stiffness * (y - x**2) ** 2
    if power == 0:
        return wall + slope * (x + x**3 / 3)
    return wall + slope * place * ((x - place) / place) ** (power + 1) / (power + 1)


def bottom(power, place, stiffness=30.0, slope=1e-3, x=0.0):
    data = (stiffness, slope, place, power)
    return hessian(lambda p: valley(p, data), jnp.asarray([x, x**2], FLOAT), check=False)


@pytest.mark.parametrize("place", [0.9, -0.7, 0.3, 0.01, -1e-3])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_slope_that_vanishes_within_reach_does_not_last(power, place):
    assert weak_slope(bottom(power, place), 1e-6, 100) is None


@pytest.mark.parametrize("x", [0.0, 0.4, -0.3])
@pytest.mark.parametrize("stiffness", [1.0, 30.0, 100.0])
def test_a_slope_along_a_bent_floor_lasts(stiffness, x):
    op = bottom(0, 1.0, stiffness, x=x)
    found = weak_slope(op, 1e-6, 100)
    assert found.code == "weak_slope"
    assert 0.5 * found.fields["gradient"] <= found.fields["lowest"] <= found.fields["gradient"]


def test_it_costs_one_product_a_variable_or_nothing():
    op = bottom(0, 1.0)
    assert weak_slope(op, 1e-6, 1) is None
    assert op.num_hvps == 0
    assert weak_slope(op, 1e-6, 2) is not None
    assert op.num_hvps == 2


@pytest.mark.parametrize("number", [1, 7, 13, 22])
def test_rising_points_are_no_critical_points(number):
    known = truth_points("slope")[number].astype(FLOAT)
    assert known.name == f"rising_{number}"
    point = hp.classify(known.loss, *known.args)
    assert point.label == "not_critical"
    assert point.reasons[0] == "weak_slope"


def test_next_to_a_saddle_rounding_may_be_what_is_left():
    """A gradient of twice its own tolerance cannot fall to 15 % of itself."""
    known = {k.name: k for k in truth_points("slope")}["beside_saddle_7"]
    cast = known.astype(np.float32)
    assert hp.classify(cast.loss, *cast.args).label == "saddle"
