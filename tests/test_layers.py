"""The table of layers against the blocks of a dense matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp

FLOAT = np.asarray(jnp.zeros(())).dtype
CLOSE = 1e-10 if FLOAT.itemsize == 8 else 1e-4
PARTS = {
    "params['head']": slice(0, 5),
    "params['tower'][0]": slice(5, 17),
    "params['tower'][1]": slice(17, 40),
}


def table_of(matrix, **options):
    """The table of a matrix on three layers of 5, 12 and 23 variables, beside leaves that are not varied."""
    wide = jnp.asarray(matrix, FLOAT)

    def matvec(v):
        flat = jnp.concatenate([v["head"]["w"], *(part[k] for part in v["tower"] for k in ("b", "w"))])
        out = wide @ flat
        tower = [{"b": out[5:7], "w": out[7:17]}, {"b": out[17:20], "w": out[20:]}]
        return {**v, "head": {"w": out[:5]}, "tower": tower}

    def leaf(size):
        return jnp.ones(size, FLOAT)

    like = {"head": {"w": leaf(5)}, "tower": [{"b": leaf(2), "w": leaf(10)}, {"b": leaf(3), "w": leaf(20)}]}
    op = hp.linear_map(jax.jit(matvec), {**like, "count": 3, "none": None}, check=False)
    return hp.layer_table(op, **options), op


def symmetric(seed=0):
    root = np.random.default_rng(seed).standard_normal((40, 40))
    return root + root.T + 3 * np.diag(np.arange(40) < 5)


def test_each_row_is_that_of_the_block_of_the_dense_matrix():
    matrix, lines = symmetric(), []
    found, op = table_of(matrix, rtol=1e-5, progress=lines.append)
    top = np.linalg.norm(matrix, 2)
    assert found.names == tuple(PARTS)
    for i, part in enumerate(PARTS.values()):
        values = np.linalg.eigvalsh(matrix[part, part])
        assert found.sizes[i] == len(values)
        np.testing.assert_allclose([found.lowest[i], found.highest[i]], values[[0, -1]], atol=CLOSE * top)
        assert found.trace[i] == pytest.approx(np.sum(values), abs=CLOSE * top * len(values))
        assert found.negative_mass[i] == pytest.approx(np.mean(values < 0), abs=1e-6)
    vectors = np.linalg.eigh(matrix)[1]
    for shares, vector in ((found.in_lowest, vectors[:, 0]), (found.in_highest, vectors[:, -1])):
        expected = [np.sum(vector[part] ** 2) for part in PARTS.values()]
        np.testing.assert_allclose(shares, expected, atol=1e-4)
    assert found.status == "converged"
    assert found.num_hvps == op.num_hvps >= 40
    assert len(lines) == 3


def test_a_block_that_is_too_large_for_the_budget_is_estimated_and_says_so():
    matrix = symmetric()
    found, _ = table_of(matrix, max_hvps=20)
    values = np.linalg.eigvalsh(matrix[PARTS["params['tower'][1]"]][:, PARTS["params['tower'][1]"]])
    top = np.max(np.abs(values))
    assert found.statuses[:2] == ("converged", "converged")
    assert found.statuses[2] == found.status == "max_hvps"
    np.testing.assert_allclose([found.lowest[2], found.highest[2]], values[[0, -1]], atol=0.1 * top)
    assert abs(found.trace[2] - np.sum(values)) <= 4 * found.trace_error[2]
    assert abs(found.negative_mass[2] - np.mean(values < 0)) <= 0.3


def test_a_layer_that_is_not_read_is_zero_and_the_table_prints_and_exports():
    params = {"a": jnp.ones(2, FLOAT), "unread": jnp.ones(3, FLOAT)}
    found = hp.layer_table(hp.hessian(lambda p: -jnp.sum(p["a"] ** 2), params))
    assert (found.lowest.tolist(), found.highest.tolist()) == ([-2.0, 0.0], [-2.0, 0.0])
    assert found.negative_mass.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(found.in_lowest, [1.0, 0.0], atol=1e-6)
    assert repr(found).startswith("LayerTable: CONVERGED\n  params['a']")
    with pytest.raises(ValueError, match="by='module'"):
        hp.layer_table(hp.linear_map(lambda v: v, params), by="module")
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="to_pandas needs pandas"):
            found.to_pandas()
    else:
        assert found.to_pandas().loc["params['a']", "lowest"] == -2.0
