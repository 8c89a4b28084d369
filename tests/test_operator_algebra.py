"""Sums, differences, multiples and shifts of operators against the same sums of dense matrices."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
CLOSE = 1e-10 if FLOAT.itemsize == 8 else 1e-4


def network(p, batch):
    return jnp.tanh(batch["x"] @ p["w"] + p["frozen"][None, :]) @ p["v"]


def squares(z, batch):
    return jnp.mean(jnp.sum((z - batch["y"]) ** 2, axis=1))


def loss(p, batch):
    return squares(network(p, batch), batch)


def varied(path, leaf):
    return path in ("params['w']", "params['v']", "params['unread']")


def case():
    """Params with frozen, unread, integer and None leaves; ragged batches with weights of their own."""
    rng = np.random.default_rng(5)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), FLOAT)

    params = {"w": draw(4, 3), "v": draw(3, 2), "frozen": draw(3), "unread": draw(2)}
    params |= {"count": jnp.arange(2), "none": None}
    batches = [{"x": draw(rows, 4), "y": draw(rows, 2)} for rows in (4, 3, 1)]
    return params, hp.Batches(batches, (4.0, 1.5, 3.0))


def both():
    params, data = case()
    curvature = hp.gauss_newton(network, squares, params, data, trainable=varied)
    return hp.hessian(loss, params, data, trainable=varied), curvature


@cache
def matrices():
    """Dense Hessian and Gauss–Newton matrix, 2JᵀJ a sample, of the leaves that are varied."""
    params, data = case()
    whole = {name: jnp.concatenate([batch[name] for batch in data.batches]) for name in "xy"}
    counts = [len(batch["x"]) for batch in data.batches]
    shares = np.repeat(np.divide(data.weights, np.multiply(counts, np.sum(data.weights))), counts)
    flat, unravel = ravel_pytree({name: params[name] for name in ("unread", "v", "w")})

    def outputs(v):
        return network({**params, **unravel(v)}, whole)

    def weighted(v):
        return jnp.sum(jnp.asarray(shares, FLOAT)[:, None] * (outputs(v) - whole["y"]) ** 2)

    hessian = np.asarray(jax.jit(jax.hessian(weighted))(flat), np.float64)
    jacobian = np.asarray(jax.jit(jax.jacrev(outputs))(flat), np.float64)
    return hessian, 2 * np.einsum("s,soi,soj->ij", shares, jacobian, jacobian)


def off(op, expected):
    """Largest deviation of the operator's matrix, in units of the largest entry."""
    return np.max(np.abs(op.dense() - expected)) / np.max(np.abs(expected))


COMBINATIONS = {
    "residual": lambda h, g: h - g,
    "sum": lambda h, g: h + g,
    "multiple": lambda h, g: 3 * h,
    "quotient": lambda h, g: np.float64(0.5) * h / 4,
    "negative": lambda h, g: -h,
    "nested": lambda h, g: 2 * (h - 0.5 * (g + h)) - g,
}


@pytest.mark.parametrize("name", COMBINATIONS)
def test_a_combination_is_that_of_the_dense_matrices(name):
    h, g = both()
    build = COMBINATIONS[name]
    assert off(build(h, g), build(*matrices())) <= CLOSE


def test_a_shift_reaches_variables_that_the_loss_does_not_read():
    h, g = both()
    hessian, gauss_newton = matrices()
    expected = 2 * (hessian - 0.1 * np.eye(h.size)) - gauss_newton
    op = 2 * h.shifted(-0.1) - g
    assert off(op, expected) <= CLOSE
    assert op.active == (True, True, True)
    assert (h - g).active == h.active == (False, True, True)
    np.testing.assert_allclose(op.to_scipy().matvec(np.ones(h.size)), expected @ np.ones(h.size), rtol=1e-4)


def test_the_residual_is_zero_where_the_model_is_linear_and_passes_its_check():
    _, data = case()

    def line(p, batch):
        return batch["x"] @ p

    weights = jnp.ones((4, 2), FLOAT)
    g = hp.gauss_newton(line, squares, weights, data)
    residual = hp.hessian(lambda p, b: squares(line(p, b), b), weights, data) - g
    assert np.max(np.abs(residual.dense())) <= CLOSE * np.max(np.abs(g.dense()))
    assert not residual.check().cause


def test_every_sum_of_the_spectrum_takes_a_combination():
    h, g = both()
    residual = h - g
    matrix = np.subtract(*matrices())
    exact, size = np.linalg.eigvalsh(matrix), np.linalg.norm(matrix)
    found = hp.eigsh(residual, lowest=2, highest=1)
    np.testing.assert_allclose(found.eigenvalues, exact[[0, 1, -1]], atol=2e-3 * size)
    assert found.eigenvectors["count"].shape == (3, 2)
    assert hp.trace(residual).value == pytest.approx(np.trace(matrix), abs=1e-4 * size)
    assert hp.frobenius_norm(residual).value == pytest.approx(size, rel=1e-4)
    diagonal = hp.diagonal(residual).value
    np.testing.assert_allclose(diagonal["v"].ravel(), np.diag(matrix)[2:8], atol=1e-4 * size)
    density = hp.spectral_density(residual)
    assert density.negative_mass == pytest.approx(np.mean(exact < -1e-5 * size), abs=1e-3)


def test_products_are_entered_in_the_ledgers_of_the_parts_and_the_sum_has_its_own():
    h, g = both()
    op = h - 2 * g + h
    op(case()[0])
    assert (op.num_hvps, h.num_hvps, g.num_hvps) == (1, 2, 1)
    op.dense()
    assert (op.num_hvps, g.num_hvps) == (1 + op.size, 1 + op.size)
    assert h.objective.cost.num_hvps == 2 + 2 * op.size


def test_a_part_that_is_no_symmetric_map_is_refused_under_a_large_shift():
    skew = hp.linear_map(lambda v: jnp.roll(v, 1), jnp.ones(5, FLOAT))
    with pytest.raises(hp.OperatorCheckError, match="not symmetric"):
        hp.eigsh(skew.shifted(1e6))


def test_a_saved_search_is_not_that_of_another_combination(tmp_path):
    op = hp.hessian(lambda p: jnp.sum(jnp.sin(p) ** 2), jnp.linspace(0, 1, 40, dtype=FLOAT))
    hp.eigsh(op.shifted(0.5), save_to=tmp_path / "job")
    with pytest.raises(hp.CheckpointError, match="another loss"):
        hp.eigsh(op.shifted(0.25), save_to=tmp_path / "job")


def test_what_is_no_combination_is_named():
    h, _ = both()
    other = hp.hessian(lambda x: jnp.sum(x**2), jnp.ones(3, FLOAT))
    with pytest.raises(ValueError, match="operators of other variables have no sum: 20 variables"):
        h + other
    with pytest.raises(TypeError, match=r"float have no sum; .* added by op.shifted\(sigma\)"):
        h + 0.1
    with pytest.raises(TypeError, match="a product of two operators need not be symmetric"):
        h * other
    with pytest.raises(TypeError, match="sigma is a str; expected a real number"):
        h.shifted("0.1")
    with pytest.raises(ValueError, match="the factor is nan"):
        h * np.nan
    assert "+1 HessianOperator -0.5 identity" in repr(other.shifted(-0.5))
    assert "-2 HessianOperator" in repr(jnp.asarray(-2.0) * other)


# Blocks --------------------------------------------------------------------------------------

# Where each variable of the flattened case lies: leaves in the order of `jax.tree.leaves`.
PARTS = {"params['unread']": slice(0, 2), "params['v']": slice(2, 8), "params['w']": slice(8, 20)}


@pytest.mark.parametrize(
    ("where", "parts"),
    [
        ("params['w']", [8, 20]),
        (lambda leaf: jnp.shape(leaf)[0] == 3, [2, 8]),
        (lambda path, leaf: path != "params['w']", [0, 8]),
        ({"w": True, "v": False, "frozen": False, "unread": False, "count": False, "none": None}, [8, 20]),
    ],
    ids=["path", "leaf", "path and leaf", "mask"],
)
def test_a_restriction_is_the_block_of_the_dense_matrix(where, parts):
    h, g = both()
    (hessian, gauss_newton), part = matrices(), slice(*parts)
    op = hp.restrict(2 * h - g, where=where)
    assert off(op, (2 * hessian - gauss_newton)[part, part]) <= CLOSE
    assert op.num_hvps == op.size == h.num_hvps == g.num_hvps
    image = op(case()[0])
    assert image["frozen"].shape == (3,)
    assert not np.any(image["frozen"])
    same = hp.restrict(op, where=lambda leaf: True)
    assert same.layout == op.layout


def test_a_restriction_is_what_is_differentiated_by_the_block_alone():
    params, data = case()
    h, _ = both()
    alone = hp.hessian(loss, params, data, trainable=lambda path, leaf: path == "params['w']")
    block = hp.restrict(h, where="params['w']")
    assert off(block, alone.dense()) <= CLOSE
    found, other = hp.eigsh(block), hp.eigsh(alone)
    np.testing.assert_allclose(found.eigenvalues, other.eigenvalues, rtol=1e-3)
    assert not np.any(found.eigenvectors["v"])
    assert "params['v'] (outside where=)" in found.variables


@pytest.mark.parametrize("by", ["layer", lambda path: path == "params['w']"])
def test_a_block_diagonal_map_is_that_of_the_dense_matrix(by):
    h, _ = both()
    bounds = list(PARTS.values()) if by == "layer" else [slice(0, 8), slice(8, 20)]
    expected = np.zeros((20, 20))
    for part in bounds:
        expected[part, part] = matrices()[0][part, part]
    op = hp.block_diagonal(h, by=by)
    assert off(op, expected) <= CLOSE
    assert (op.num_hvps, h.num_hvps) == (20, 40)  # of a block that is not read there is no product
    exact = np.linalg.eigvalsh(expected)
    np.testing.assert_allclose(hp.eigsh(op).eigenvalues, exact[[0, -1]], atol=2e-3 * exact[-1])
    assert hp.trace(op).value == pytest.approx(np.trace(matrices()[0]), rel=1e-4)
    residual = h - op
    assert np.max(np.abs(residual.dense()[8:, 8:])) <= CLOSE * np.max(np.abs(expected))


def test_a_layer_is_what_differs_in_the_last_step_of_its_path_alone():
    layer = {"kernel": jnp.ones((2, 2), FLOAT), "bias": jnp.ones(2, FLOAT)}
    params = {"dense": layer, "tower": [layer, layer], "scale": jnp.ones(1, FLOAT), "count": 3}
    op = hp.linear_map(lambda v: v, params)
    blocks = hp.block_diagonal(op).blocks
    assert list(blocks) == [
        "params['dense']",
        "params['scale']",
        "params['tower'][0]",
        "params['tower'][1]",
    ]
    assert blocks["params['dense']"] == (True, True, False, False, False, False, False)
    assert len(hp.block_diagonal(op, by="leaf").blocks) == 7
    assert hp.restrict(op, where="params['tower']").size == 12
    assert list(hp.block_diagonal(hp.linear_map(lambda v: v, jnp.ones(2, FLOAT))).blocks) == ["params"]


def test_blocks_that_are_none_are_named():
    h, _ = both()
    with pytest.raises(ValueError, match=r"where=\"params\['q'\]\" chooses none of the variables params"):
        hp.restrict(h, where="params['q']")
    with pytest.raises(ValueError, match="where= chooses none"):
        hp.restrict(h, where=lambda path, leaf: path == "params['frozen']")
    with pytest.raises(TypeError, match="where is a int; expected a function"):
        hp.restrict(h, where=3)
    with pytest.raises(ValueError, match='by=\'module\'; expected "layer", "leaf" or a function'):
        hp.block_diagonal(h, by="module")
    with pytest.raises(TypeError, match="expected an operator"):
        hp.restrict(np.eye(3), where="params")


# Preconditioned ------------------------------------------------------------------------------

OPTIMIZERS = {
    "adam": (lambda optax: optax.adam(0.01, b2=0.9), lambda nu, steps: np.sqrt(nu / (1 - 0.9**steps)) + 1e-8),
    "rmsprop": (lambda optax: optax.rmsprop(0.01, eps=0.02), lambda nu, steps: np.sqrt(nu + 0.02)),
    "sgd": (lambda optax: optax.sgd(0.01, momentum=0.9), lambda nu, steps: np.ones_like(nu)),
}


@pytest.mark.any_promotion
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "adam")) for name in OPTIMIZERS]
)
def test_a_preconditioned_operator_is_the_dense_matrix_scaled_by_hand(name):
    optax = pytest.importorskip("optax")
    build, scaled = OPTIMIZERS[name]
    optimizer, rng = build(optax), np.random.default_rng(4)
    params, (h, g) = case()[0], both()
    varied_ones = {key: params[key] for key in ("unread", "v", "w")}
    state = optimizer.init(params)
    for _ in range(3):
        gradients = jax.tree.map(
            lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape), leaf.dtype), params
        )
        _, state = optimizer.update(gradients, state, params)
    node = next((part for part in state if hasattr(part, "nu")), None)
    nu = {key: varied_ones[key] if node is None else node.nu[key] for key in varied_ones}
    root = scaled(np.asarray(ravel_pytree(nu)[0], np.float64), 4) ** -0.5
    close = max(CLOSE, 5e-8) if name == "adam" else CLOSE  # its ε of 1e-8 counts as zero
    op, matrix = (h, matrices()[0]) if name == "sgd" else (g, matrices()[1])
    seen = hp.precondition(op, optimizer=optimizer, opt_state=state)
    assert off(seen, root[:, None] * matrix * root) <= close
    block = hp.restrict(seen, where="params['w']")
    assert off(block, (root[:, None] * matrix * root)[8:, 8:]) <= close
    assert (seen.num_hvps, op.num_hvps) == (32, 32)


@pytest.mark.any_promotion
def test_what_no_preconditioner_can_be_read_from_is_named():
    optax = pytest.importorskip("optax")
    h, g = both()
    params, lion = case()[0], optax.lion(0.1)
    with pytest.raises(TypeError, match="op is a LinearCombination; expected"):
        hp.precondition(h - g, optimizer=lion, opt_state=lion.init(params))
    with pytest.raises(ValueError, match="preconditioner is not known: "):
        hp.precondition(h, optimizer=lion, opt_state=lion.init(params))
    fresh = optax.adam(0.1)
    with pytest.raises(ValueError, match="no step has been taken with this state"):
        hp.precondition(h, optimizer=fresh, opt_state=fresh.init(params))
    broken = hp.hessian(lambda x: jnp.sum(jnp.log(x)), jnp.zeros(2, FLOAT))
    with pytest.raises(ValueError, match="the loss is -inf at these parameters"):
        hp.precondition(broken, optimizer=fresh, opt_state=fresh.init(jnp.zeros(2, FLOAT)))
