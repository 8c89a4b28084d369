"""Vectors on pytrees, against numpy on the flattened leaves."""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessian_probe import arrays
from hessian_probe.arrays import types

EPS = float(jnp.finfo(jnp.zeros(()).dtype).eps)
FLOAT = jnp.zeros(()).dtype


class Unhashable:
    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("leaves are not to be compared")


ODDITY = Unhashable()


def odd_tree():
    """One leaf of every kind that a parameter pytree has been seen to hold."""
    return {
        "weights": [jnp.arange(6, dtype=FLOAT).reshape(2, 3), jnp.ones(2, jnp.bfloat16)],
        "scalar": 2.5,
        "empty": jnp.zeros((0, 4), FLOAT),
        "none": None,
        "steps": jnp.arange(3),
        "count": 7,
        "flag": True,
        "mask": np.array([True, False]),
        "key": jax.random.key(3),
        "keys": jax.random.split(jax.random.key(4), 2),
        "activation": "tanh",
        "function": jnp.tanh,
        "oddity": ODDITY,
    }


def flat(vector):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in vector])


@pytest.fixture
def pair(key):
    """Two vectors of unequal leaves, and a layout that fits them."""
    tree = {"a": jnp.zeros((3, 2), FLOAT), "b": jnp.zeros((), FLOAT), "c": jnp.zeros(5, FLOAT)}
    layout = arrays.split(tree)[0]
    rng = arrays.generator(key)
    return layout, arrays.random_normal(rng, layout), arrays.random_normal(rng, layout)


def test_only_real_floating_leaves_are_variables():
    layout, variables, rest = arrays.split(odd_tree())
    assert layout.names == (
        "params['empty']",
        "params['weights'][0]",
        "params['weights'][1]",
    )
    assert layout.size == 0 + 6 + 2
    assert [v.shape for v in variables] == [(0, 4), (2, 3), (2,)]
    # Steps, mask, key, keys, and Python's own numbers: passed on as they are, but not differentiated.
    assert len(rest) == 7
    assert len(arrays.split(odd_tree(), static_numbers=(int,))[2]) == 5
    assert len(arrays.split(odd_tree(), static_numbers=(int, float))[2]) == 4


def test_leaves_that_are_held_constant_are_no_variables():
    tree = {"held": 2.0, "moves": np.ones(2, np.float32)}
    layout, variables, others = arrays.split(tree, trainable=lambda path, leaf: "moves" in path)
    assert (layout.size, len(variables), len(others)) == (2, 1, 1)
    back = arrays.merge(layout, tuple(2 * v for v in variables), others)
    assert back["held"] is tree["held"]
    np.testing.assert_array_equal(back["moves"], [2, 2])


def test_merge_undoes_split_and_keeps_the_very_objects():
    tree = odd_tree()
    layout, variables, rest = arrays.split(tree)
    back = arrays.merge(layout, variables, rest)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for name in ("function", "activation", "steps", "mask", "key", "count", "oddity"):
        assert back[name] is tree[name], name
    assert back["weights"][1].dtype == jnp.bfloat16
    np.testing.assert_array_equal(back["weights"][0], tree["weights"][0])


def test_layouts_of_equal_trees_are_equal_and_hash_alike():
    """Otherwise every call would compile anew."""
    one, two = arrays.split(odd_tree())[0], arrays.split(odd_tree())[0]
    assert one == two
    assert hash(one) == hash(two)


def test_work_is_done_in_at_least_float32_and_judged_by_the_lowest_precision():
    tree = [jnp.zeros(1, jnp.float16), jnp.zeros(1, FLOAT), jnp.zeros(1, jnp.bfloat16)]
    layout = arrays.split(tree)[0]
    assert layout.work_dtypes == (jnp.float32, FLOAT, jnp.float32)
    assert layout.dtype == jnp.bfloat16


@pytest.mark.parametrize("leaf", [1j, np.complex64(1j), np.ones(2, np.complex64)])
def test_a_complex_leaf_is_refused_by_name(leaf):
    with pytest.raises(TypeError, match=r"params\['deep'\]\[1\].*(complex|real)"):
        arrays.split({"deep": (1.0, leaf)})


def test_inner_product_and_norm_are_those_of_the_flat_vector(pair):
    _, a, b = pair
    np.testing.assert_allclose(float(arrays.dot(a, b)), flat(a) @ flat(b), atol=20 * EPS)
    np.testing.assert_allclose(float(arrays.norm(a)), np.linalg.norm(flat(a)), rtol=20 * EPS)
    np.testing.assert_allclose(flat(arrays.add_scaled(a, -2.5, b)), flat(a) - 2.5 * flat(b), atol=20 * EPS)
    np.testing.assert_allclose(flat(arrays.scale(3, a)), 3 * flat(a), atol=20 * EPS)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_norm_neither_overflows_nor_underflows(share):
    """The squares of these entries do not exist in their own precision."""
    for size in (float(jnp.finfo(FLOAT).max) ** share, float(jnp.finfo(FLOAT).tiny) ** share):
        vector = (jnp.full(3, size, FLOAT), jnp.full((), -2 * size, FLOAT))
        expected = size * np.sqrt(7.0)
        np.testing.assert_allclose(float(arrays.norm(vector)), expected, rtol=20 * EPS)


@pytest.mark.parametrize(("entry", "expected"), [(0.0, 0.0), (np.inf, np.inf), (np.nan, np.nan)])
def test_the_norm_of_special_entries(entry, expected):
    vector = (jnp.asarray([entry, 0.0], FLOAT), jnp.zeros((0,), FLOAT))
    np.testing.assert_equal(float(arrays.norm(vector)), expected)


def test_low_precision_leaves_are_summed_in_float32():
    """4,096 ones: bfloat16 sums stop at 256."""
    vector = (jnp.ones(4096, jnp.bfloat16).astype(jnp.float32),)
    assert float(arrays.dot(vector, vector)) == 4096.0
    assert float(arrays.norm((jnp.ones(4096, jnp.bfloat16),))) == 64.0


def test_bases_are_matrices(pair, key):
    layout, vector, _ = pair
    rng = arrays.generator(key)
    rows = [arrays.random_normal(rng, layout) for _ in range(4)]
    basis = tuple(jnp.stack(leaves) for leaves in zip(*rows, strict=True))
    matrix = np.stack([flat(r) for r in rows])
    np.testing.assert_allclose(
        np.asarray(arrays.coefficients(basis, vector)), matrix @ flat(vector), atol=50 * EPS
    )
    weights = np.asarray(rng.standard_normal((4, 2)), FLOAT)
    mixed = arrays.combine(basis, jnp.asarray(weights))
    for column in range(2):
        np.testing.assert_allclose(
            flat(arrays.row(mixed, column)), weights[:, column] @ matrix, atol=50 * EPS
        )
    single = arrays.combine(basis, jnp.asarray(weights[:, 0]))
    np.testing.assert_allclose(flat(single), weights[:, 0] @ matrix, atol=50 * EPS)
    np.testing.assert_array_equal(flat(arrays.row(basis, 1)), matrix[1])


def test_random_vectors_are_standard_normal_reproducible_and_silent_where_inactive():
    tree = (jnp.zeros(20_000, FLOAT), jnp.zeros((100, 3), FLOAT))
    layout = arrays.split(tree)[0]
    one = arrays.random_normal(arrays.generator(None), layout, (True, False))
    two = arrays.random_normal(arrays.generator(None), layout, (True, False))
    np.testing.assert_array_equal(one[0], two[0])
    assert not np.any(one[1])
    sample = np.asarray(one[0], np.float64)
    assert abs(sample.mean()) < 5 / np.sqrt(sample.size)
    assert abs(sample.var() - 1) < 5 * np.sqrt(2 / sample.size)
    other = arrays.random_normal(arrays.generator(jax.random.key(1)), layout)
    assert not np.array_equal(other[0], one[0])


def test_what_is_no_key_is_refused():
    with pytest.raises(TypeError, match=r"jax\.random\.key"):
        arrays.generator("seed")


def test_a_vector_of_the_wrong_shape_or_structure_is_refused_by_name():
    layout = arrays.split({"a": jnp.zeros((3, 2), FLOAT), "n": 3})[0]
    with pytest.raises(ValueError, match=r"the start has shape \(2, 3\).*params\['a'\].*\(3, 2\)"):
        arrays.from_tangent(layout, {"a": np.zeros((2, 3)), "n": 0}, "the start")
    with pytest.raises(ValueError, match="the start has structure"):
        arrays.from_tangent(layout, [np.zeros((3, 2))], "the start")


def test_tangents_have_the_structure_of_the_parameters():
    tree = odd_tree()
    layout, variables, rest = arrays.split(tree)
    work = arrays.cast(variables, layout.work_dtypes)
    written = arrays.tangent(layout, work, rest)
    assert jax.tree.structure(written) == jax.tree.structure(tree)
    assert written["function"] is jnp.tanh
    assert written["key"].dtype == tree["key"].dtype
    np.testing.assert_array_equal(written["steps"], np.zeros(3))
    for a, b in zip(arrays.from_tangent(layout, written), work, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_first_leaf_with_a_nan_is_named():
    tree = {"a": jnp.zeros(2, FLOAT), "b": jnp.asarray([0.0, np.inf], FLOAT), "c": np.nan}
    layout, variables, _ = arrays.split(tree)
    assert arrays.first_nonfinite(layout, variables) == "params['b']"
    assert arrays.first_nonfinite(layout, tuple(jnp.zeros_like(v) for v in variables)) is None


def test_sums_over_leaves_of_half_precision_are_taken_in_single():
    """80,000 is beyond float16, whose largest number is 65,504."""
    ones = (jnp.ones(40_000, jnp.float16), jnp.ones(40_000, jnp.float16))
    assert float(arrays.dot(ones, ones)) == 80_000
    assert float(arrays.norm(ones)) == pytest.approx(80_000**0.5, rel=1e-3)


def test_types_without_jaxtyping_leave_the_shape_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    spec = importlib.util.spec_from_file_location("plain_types", types.__file__)
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    assert plain.Float[jax.Array, "k n"] is jax.Array
    assert plain.Bool[jax.Array, ""] is jax.Array
