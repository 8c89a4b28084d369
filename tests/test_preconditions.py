"""Points that cannot be classified, and points that only look so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
NOT_REPEATABLE = {"gradient_not_repeatable", "product_not_repeatable", "product_not_symmetric"}


@pytest.mark.parametrize("power", [3, 4, 6])
def test_a_loss_without_curvature_away_from_the_origin_is_smooth(power):
    """At the critical point c ≠ 0 of Σ(x − c)^p products are zero, and one rounding away they are not."""
    center = np.asarray([0.3, -1.7, 2.1], FLOAT)
    point = hp.classify(lambda p, c: jnp.sum((p - c) ** power), center, center)
    # That the lowest points on spheres are followed to the axes is the flat search's to prove.
    assert point.label in ("saddle" if power == 3 else "minimum", "degenerate")
    assert not set(point.reasons) & NOT_REPEATABLE


@pytest.mark.parametrize("at", [0.0, 0.7])
def test_random_curvature_is_named_with_and_without_a_gradient(at):
    rng = np.random.default_rng(0)

    def loss(p):
        size = jax.ShapeDtypeStruct((3,), FLOAT)
        draw = jax.pure_callback(lambda: rng.standard_normal(3).astype(FLOAT), size)
        return jnp.sum(draw * p**2)

    point = hp.classify(loss, np.full(3, at, FLOAT))
    assert point.label == "undetermined"
    assert point.reasons[0] in NOT_REPEATABLE
