"""Rounding: what is zero, and what is more than rounding."""

import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)


def ripple(size):
    """p₀² beside a curvature of `size` along p₁ = 1 that differs by a quarter of itself one rounding away."""
    frequency = FLOAT.type(np.arccos(0.75) / EPS)

    def loss(p):
        phase = frequency * (p[1] - 1)  # exact near 1
        return p[0] ** 2 - FLOAT.type(size) * jnp.cos(phase) / frequency / frequency

    return loss


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_curvature_of_four_times_its_own_change_under_rounding_is_none(sign):
    """Products are known to eight times what moving the parameters by one rounding changes them by."""
    size = sign * 1e4 * EPS
    point = hp.classify(ripple(size), np.array([0, 1], FLOAT))
    assert abs(size) < point.zero_band < 3 * abs(size)
    assert point.label == "minimum"  # what it could change within the reach is below the resolution
    assert not point.strict
    assert "silent" in point.reasons
    assert point.index_at_least == 0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_curvature_that_rounding_does_not_change_counts(sign):
    """The same size without the ripple: half of it along p₁ as p₁²."""
    size = FLOAT.type(1e4 * EPS)
    point = hp.classify(lambda p: p[0] ** 2 + sign * size * p[1] ** 2, np.array([0, 0], FLOAT))
    assert point.zero_band < size
    assert point.strict
    assert point.label == ("minimum" if sign > 0 else "saddle")
