"""Where second order is silent: higher order and samples decide, or nothing is claimed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe import problems

FLOAT = np.asarray(jnp.zeros(())).dtype
X64 = np.float64 == FLOAT

DEGENERATE = [known for known in problems.degenerate_points() if known.degenerate]
# What no finite order decides, or only one beyond the reach of rounding.
TOO_FLAT = {"exp(-1/x2)", "dixon_price6", "x2y2"}


def embedded(function, size, others, seed, params):
    """A function turned at random among further directions of given curvature, away from the origin.

    Args:
        function: of `size` variables.
        size: its number of variables.
        others: curvatures of the further directions.
        seed: draws the rotation and the place.
        params: point of the function.

    Returns:
        The loss, the parameters, and the data (rotation, place, curvatures) that the loss needs.
    """
    rng = np.random.default_rng([seed, 7])
    n = size + len(others)
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    place = rng.standard_normal(n)
    start = np.concatenate([np.asarray(params, np.float64), np.zeros(len(others))])
    data = tuple(np.asarray(part, FLOAT) for part in (turn, place, others))

    def loss(p, batch):
        rotation, origin, curvature = batch
        with jax.default_matmul_precision("highest"):
            q = rotation.T @ (p - origin)
        return function(q[:size]) + jnp.asarray(0.5, p.dtype) * jnp.sum(curvature * q[size:] ** 2)

    return loss, np.asarray(turn @ start + place, FLOAT), data


@pytest.mark.parametrize("known", DEGENERATE, ids=lambda known: known.name)
def test_the_table_is_decided(known):
    cast = known.astype(FLOAT)
    point = hp.classify(cast.loss, *cast.args)
    if known.name not in TOO_FLAT and (X64 or known.name != "powell"):
        assert point.label == known.label, point
    assert point.label in known.accepted
    assert not point.strict
    assert not point.certified
    if point.label == "saddle" and point.lowest.eigenvalues[0] >= -point.zero_band:
        there = jax.tree.map(np.add, cast.params, point.descent)
        assert cast.loss(there) < cast.loss(cast.params)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("known", DEGENERATE, ids=lambda known: known.name)
def test_turned_among_other_directions(known, seed):
    """What the others are bent like does not matter, unless it makes a saddle."""
    others = np.array([0.5, 2.0]) * (1 if seed else -1)
    loss, params, data = embedded(known.loss, known.size, others, seed, known.params)
    point = hp.classify(loss, params, data)
    truth = {known.label, "degenerate", "undetermined"}
    if seed == 0:  # bent downwards beside: a minimum is none, nor is there a minimum of the rest
        truth = {"saddle", "degenerate", "undetermined"}
    assert point.label in truth, point
