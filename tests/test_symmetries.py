"""Families of moves that leave the loss unchanged: found, with their dimensions, and not found."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from hessian_probe.arrays import generator
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.symmetries import flat_families

FLOAT = np.asarray(jnp.zeros(())).dtype
RNG = np.random.default_rng(14)


def normal(*shape, size=0.7):
    return np.asarray(size * RNG.standard_normal(shape), FLOAT)


INPUTS = normal(80, 6, size=1.0)
TOKENS = normal(12, 5, 4, size=1.0)
BASE = normal(6, 5), normal(5, size=0.2), normal(5, 4), normal(4)  # a network of two layers


def unit(values, axis):
    return values / jnp.linalg.norm(values, axis=axis, keepdims=True)


def layers(activation, params):
    hidden = activation(INPUTS @ params["a"] + params["b"][None])
    return hidden @ params["c"] + params["d"][None]


def attention(params):
    q, k = TOKENS @ params["q"] + params["r"][None, None], TOKENS @ params["k"] + params["s"][None, None]
    return jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2), axis=-1) @ (TOKENS @ params["v"])


def normalised(params):
    sums = INPUTS @ params["a"] + params["b"][None]
    return jnp.tanh(unit(sums - jnp.mean(sums, axis=1, keepdims=True), 1) * params["g"][None])


def after_norm(params):
    hidden = jax.nn.relu(unit(INPUTS, 1)[:, :5] * params["g"][None] + params["h"][None])
    return jnp.tanh(hidden @ params["c"])


two = dict(zip("abcd", BASE, strict=True))
# Outputs of a model, its parameters, and the families by the leaves that they move.  Their dimensions are
# those of the null space of the outputs' Jacobian: all families together, for they do not overlap here.
MODELS = {
    "softmax": (
        lambda p: jax.nn.log_softmax(INPUTS @ p["w"] + p["b"][None]),
        {"w": normal(6, 4), "b": normal(4)},
        {"b": 1, "w": 6},
    ),
    "weight norm": (
        lambda p: jnp.tanh(INPUTS @ (p["g"][None] * unit(p["v"], 0)) + p["b"][None]),
        {"v": normal(6, 3), "g": normal(3), "b": normal(3)},
        {"v": 3},
    ),
    "layer norm": (
        normalised,
        {"a": normal(6, 5), "b": normal(5), "g": normal(5)},
        {"a": 6, "b": 1, "ab": 1},
    ),
    "relu after a norm": (
        after_norm,
        {"g": normal(5), "h": normal(5, size=0.1), "c": normal(5, 3)},
        {"cgh": 5},
    ),
    "relu": (lambda p: layers(jax.nn.relu, p), two, {"abc": 5}),
    "relu, names in another order": (
        lambda p: layers(jax.nn.relu, dict(zip("abcd", (p["W1"], p["b1"], p["W2"], p["b2"]), strict=True))),
        dict(zip(("W1", "b1", "W2", "b2"), BASE, strict=True)),
        {"W1 W2 b1": 5},
    ),
    "two linear layers": (
        lambda p: INPUTS @ p["a"] @ p["c"],
        {"a": normal(6, 3), "c": normal(3, 4)},
        {"ac": 9},
    ),
    "more units than outputs": (
        lambda p: INPUTS[:, :3] @ p["a"] @ p["c"],
        {"a": normal(3, 7), "c": normal(7, 1)},
        {"ac": 49 - 4 * 6},
    ),
    "low rank": (lambda p: p["u"] @ p["v"].T, {"u": normal(6, 2), "v": normal(5, 2)}, {"uv": 4}),
    "transposed": (
        lambda p: INPUTS @ p["u"].T @ p["v"].T,
        {"u": normal(3, 6), "v": normal(4, 3)},
        {"uv": 9},
    ),
    "vectors": (lambda p: INPUTS @ (p["u"] * p["v"]), {"u": normal(6), "v": normal(6)}, {"uv": 6}),
    "a scalar": (
        lambda p: p["s"] * jnp.tanh(INPUTS) @ p["w"],
        {"s": normal()[()], "w": normal(6, 3)},
        {"sw": 1},
    ),
    "attention": (
        attention,
        {name: normal(4, 3) for name in "qkv"} | {name: normal(3) for name in "rs"},
        {"kqr": 9, "s": 3},
    ),
    "inputs that are zero": (
        lambda p: jnp.tanh((INPUTS * (np.arange(6) < 4).astype(FLOAT)[None]) @ p["w"]),
        {"w": normal(6, 3)},
        {"w": 6},
    ),
    "nothing": (lambda p: layers(jnp.tanh, p), two, {}),
}


def families(loss, params, value=None, penalty=None):
    """What is found, as leaves → dimension; with the rounding of the loss given or measured."""
    op = hp.hessian(loss, params, penalty if penalty is None else np.asarray(penalty, FLOAT))
    measured = Rounding.measured(op, generator())
    rounding = measured if value is None else Rounding(op, op, value, np.inf, ())
    before = op.objective.cost.num_losses, op.objective.cost.num_gradients
    found = {}
    for family in flat_families(op, rounding):
        found["".join(sorted(n[8:-2] for n in op.layout.names if n in family.name))] = family.dimension
    cost = op.objective.cost.num_losses - before[0], op.objective.cost.num_gradients - before[1]
    return found, cost


@cache
def squares(outputs):
    """Mean squared error of a model's outputs with weight decay."""

    def loss(params, penalty=0.0):
        made = outputs(params)
        target = jnp.sin(jnp.arange(made.size).astype(made.dtype)).reshape(made.shape)
        decay = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
        return jnp.mean((made - target) ** 2) + penalty * decay

    return loss


def nullity(outputs, params):
    """Dimension of the null space of the outputs' Jacobian."""
    jacobian = jax.tree.leaves(jax.jit(jax.jacobian(outputs))(params))
    leaves = jax.tree.leaves(params)
    flat = [np.asarray(j, np.float64).reshape(-1, np.size(x)) for j, x in zip(jacobian, leaves, strict=True)]
    matrix = np.concatenate(flat, axis=1)
    return matrix.shape[1] - np.linalg.matrix_rank(matrix, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_families_of_a_model(name):
    outputs, params, expected = MODELS[name]
    expected = {leaves.replace(" ", ""): dimension for leaves, dimension in expected.items()}
    found, (losses, gradients) = families(squares(outputs), params, penalty=0)
    assert found == expected
    assert sum(found.values()) == nullity(outputs, params)
    assert gradients == 1
    assert losses <= 10 + 10 * len(found)


@pytest.mark.parametrize("name", ["softmax", "weight norm", "relu", "two linear layers", "attention"])
@pytest.mark.parametrize("share", [1e-2, 1e-6])
def test_decay_ends_every_symmetry(name, share, x64):
    """A penalty of 1e-6 of the loss is far beyond rounding in float64."""
    if share < 1e-3 and not x64:
        pytest.skip("below the rounding of float32")
    outputs, params, _ = MODELS[name]
    decay = sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(params))
    penalty = share * float(squares(outputs)(params)) / decay
    assert families(squares(outputs), params, penalty=penalty)[0] == {}


def test_a_tiny_gradient_is_no_symmetry():
    """Far out on the tail of a logistic loss everything is flat; large moves still change the loss."""
    margins = np.abs(INPUTS) + FLOAT.type(0.5)
    params = {"w": np.full((6, 2), 1.5, FLOAT)}
    found, _ = families(lambda p: jnp.mean(jnp.log1p(jnp.exp(-jnp.sum(margins @ p["w"], axis=1)))), params)
    assert found == {}


def test_a_saddle_where_nothing_is_visible():
    """Beside u = v = 0 scales change the loss by less than rounding; so does any move of that size."""
    params = {"u": normal(6, 3, size=1e-9), "v": normal(5, 3, size=1e-9)}
    found, _ = families(squares(lambda p: jnp.tanh(p["u"]) @ jnp.tanh(p["v"]).T), params)
    assert found == {}


def test_what_is_not_finite_has_no_families():
    assert families(lambda p: jnp.log(-jnp.sum(p["w"] ** 2)), {"w": normal(3)})[0] == {}


def direction(penalty):
    """A loss of the direction of v, and a penalty on the logarithm of its length."""

    def loss(params):
        length = jnp.linalg.norm(params["v"])
        return 100 * jnp.sum((params["v"] / length - jnp.sin(jnp.arange(8).astype(FLOAT))) ** 2) + penalty(
            jnp.log(length)
        )

    return loss


@pytest.mark.parametrize(("slope", "flat"), [(3e-3, True), (6.8e-3, False)])
def test_a_loss_is_unchanged_up_to_four_roundings(slope, flat):
    """Moves change the penalty by a half of its slope to all of it; the rounding is given as 1e-3."""
    found, _ = families(direction(lambda log: slope * log), {"v": np.ones(8, FLOAT)}, value=1e-3)
    assert found == ({"v": 1} if flat else {})


@pytest.mark.parametrize(("free", "flat"), [(0.49, False), (1.01, True)])
def test_moves_are_by_a_half_to_one_in_the_logarithm(free, flat):
    start = FLOAT.type(0.5 * np.log(8))
    loss = direction(lambda log: jax.nn.relu(jnp.abs(log - start) - free))
    assert families(loss, {"v": np.ones(8, FLOAT)})[0] == ({"v": 1} if flat else {})


@pytest.mark.parametrize(("share", "flat"), [(0.7e-3, True), (1.5e-3, False)])
def test_a_slope_along_the_orbit_excludes_it(share, flat):
    """A thousandth of the root of the terms' squares, near the parameters; the rounding given allows more."""
    v = np.ones(8, FLOAT)
    terms = float(np.linalg.norm(v * jax.grad(direction(lambda log: 0 * log))({"v": v})["v"]))
    found, _ = families(direction(lambda log: share * terms * log), {"v": v}, value=share * terms)
    assert found == ({"v": 1} if flat else {})


@pytest.mark.parametrize(("between", "flat"), [(7, True), (8, False)])
def test_leaves_are_paired_up_to_eight_apart(between, flat):
    params = [normal(6, 2), *(normal(size=1.0)[()] for _ in range(between)), normal(5, 2)]
    found, _ = families(squares(lambda p: p[0] @ p[-1].T + sum(jnp.cos(s) for s in p[1:-1])), params)
    assert list(found.values()) == ([4] if flat else [])


@pytest.mark.slow
def test_at_most_64_candidates_are_moved():
    loss = lambda p: 1 + sum(jnp.floor(0.5 + 1e-9 * s) for s in p)  # noqa: E731
    op = hp.hessian(loss, [np.ones((), FLOAT)] * 130)
    assert len(flat_families(op, Rounding.measured(op, generator()))) == 64
