"""What other libraries got wrong on record: each failure as an input, with the truth beside it."""

import jax.numpy as jnp
import numpy as np
import pytest

import hessian_probe as hp
from benchmarks.truth_points import truth_points
from hessian_probe import problems
from hessian_probe.spectrum.krylov import Krylov

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)


def diagonal(p, d):
    return 0.5 * jnp.sum(d * p**2)


def operator(eigenvalues):
    d = np.asarray(eigenvalues, FLOAT)
    return hp.hessian(diagonal, np.zeros(d.size, FLOAT), d)


def known(point):
    cast = point.astype(FLOAT)
    return cast.loss, *cast.args


@pytest.mark.slow
def test_r1_a_low_rank_matrix_brings_no_ghosts():
    """20 steps on eigenvalues {4, 2, 1} and 47 zeros; a peer answered −110 … +112."""
    op = hp.hessian(*known(problems.quadratic([4.0, 2.0, 1.0, *[0.0] * 47])))
    result = hp.eigsh(op, max_hvps=28)
    np.testing.assert_allclose(result.eigenvalues, [0, 4], atol=8e-3)
    assert result.status == "converged"
    more = hp.eigsh(op, lowest=2, highest=4)
    np.testing.assert_allclose(more.eigenvalues, [0, 0, 0, 1, 2, 4], atol=8e-3)


def test_r2_the_identity_is_one_and_not_nan():
    op = hp.hessian(*known(problems.quadratic([1.0] * 50, seed=4)))
    result = hp.eigsh(op, lowest=3, highest=3)
    np.testing.assert_allclose(result.eigenvalues, np.ones(6), atol=100 * EPS)
    assert result.status == "converged"


@pytest.mark.parametrize("hidden", [8, 20])
@pytest.mark.slow
def test_r3_copies_by_symmetry_of_hidden_units(hidden):
    """Ends ∓1.418, each as often as there are hidden units; the smaller network goes both routes."""
    loss, params, data = known(problems.zero_mlp_point(hidden=hidden))
    op = hp.hessian(loss, params, data)
    top = 1.418
    ends = hp.eigsh(op, max_hvps=31)
    np.testing.assert_allclose(ends.eigenvalues, [-top, top], atol=2e-3 * top)
    copies = hp.eigsh(op, lowest=hidden, highest=hidden)
    np.testing.assert_allclose(copies.eigenvalues, [-top] * hidden + [top] * hidden, atol=2e-3 * top)
    if hidden == 8:
        every = hp.eigsh(op, lowest=16, highest=16)
        np.testing.assert_allclose(every.eigenvalues, [-top] * 8 + [0] * 16 + [top] * 8, atol=1e3 * EPS)
    point = hp.classify(loss, params, data)
    assert point.label == "saddle"
    assert point.certified


def test_r3b_a_start_inside_an_invariant_space():
    """diag(−3, 1, 2, 5, 5, 7) from (1, 1, 0, …): four steps, of which two are outside."""
    op = operator([-3, 1, 2, 5, 5, 7])
    start = (jnp.asarray([1, 1, 0, 0, 0, 0], FLOAT),)
    krylov = Krylov(op, start, np.random.default_rng(0), 6)
    for _ in range(4):
        assert krylov.step()
    values = krylov.ritz().values
    assert np.all(values >= -3 - 100 * EPS)
    assert np.all(values <= 7 + 100 * EPS)
    np.testing.assert_allclose(values[0], -3, atol=100 * EPS)
    assert krylov.invariant
    found = hp.eigsh(op, initial=start[0], max_hvps=5)
    assert np.all(np.abs(found.eigenvalues - 2) <= 5 + 100 * EPS)


@pytest.mark.slow
def test_r4_the_largest_eight_of_a_thousand_are_eight_different_ones():
    bulk = np.linspace(0, 1, 995)
    result = hp.eigsh(operator([20, 12, 8, 6, 5, *bulk]), lowest=0, highest=8, rtol=1e-4)
    np.testing.assert_allclose(result.eigenvalues, [*bulk[-3:], 5, 6, 8, 12, 20], atol=4e-3)
    assert np.all(result.converged)


def test_r5_the_lowest_five_of_a_thousand_are_those_five():
    negative = [-0.3, -0.2, -0.1, -0.05, -0.02]
    values = [*negative, *np.linspace(0, 1, 995)]
    result = hp.eigsh(operator(values), lowest=5, highest=0)
    np.testing.assert_allclose(result.eigenvalues, negative, atol=1e-3)
    assert np.all(result.converged)


def test_r5b_zeros_of_a_large_matrix_are_zeros():
    op = hp.hessian(*known(problems.quadratic([4e5, 2e5, 1e5, *[0.0] * 47])))
    result = hp.eigsh(op, lowest=4, highest=4)
    np.testing.assert_allclose(result.eigenvalues, [0, 0, 0, 0, 0, 1e5, 2e5, 4e5], atol=4e2)
    np.testing.assert_allclose(result.eigenvalues[:5], 0, atol=1e2 * EPS * 4e5 * 50)


def residuals(p, batch):
    x, y = batch
    return jnp.mean((x * p[0] - y) ** 2)


def test_r7_a_ragged_batch_weighs_its_samples():
    """33 samples in batches of 32 and 1, an outlier alone in the last: 2·mean(x²), not the mean of means."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.standard_normal(32), 10.0].astype(FLOAT)
    y = np.zeros(33, FLOAT)
    op = hp.hessian(residuals, np.zeros(1, FLOAT), [(x[:32], y[:32]), (x[32:], y[32:])])
    truth = 2 * np.mean(x.astype(np.float64) ** 2)
    wrong = np.mean(x[:32].astype(np.float64) ** 2) + 100.0
    np.testing.assert_allclose(hp.eigsh(op).eigenvalues, [truth], rtol=100 * EPS)
    assert wrong > 10 * truth


def test_r9_ends_that_are_nearly_equal_in_size():
    values = [10.0, -9.9, *np.linspace(0, 1, 48)]
    op = hp.hessian(*known(problems.quadratic(values)))
    result = hp.eigsh(op)
    np.testing.assert_allclose(result.eigenvalues, [-9.9, 10], atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
def test_r10_one_negative_direction_in_300(seed):
    values = [-5.0, *(0.01 + 0.01 * i for i in range(299))]
    point = hp.classify(*known(problems.quadratic(values, seed=seed)))
    assert point.label == "saddle"
    assert point.certified
    assert point.index_at_least == 1
    np.testing.assert_allclose(point.lowest.eigenvalues, [-5], rtol=0.2)
    assert point.num_hvps <= 30


def test_r11_two_of_ten():
    result = hp.eigsh(operator(np.arange(1.0, 11.0)), lowest=2, highest=2)
    np.testing.assert_allclose(result.eigenvalues, [1, 2, 9, 10], atol=1e3 * EPS)


@pytest.mark.parametrize("values", [[-2.0, 2.0, 1.0], [-2.0, 2.0, *np.linspace(-1, 1, 48)]])
def test_r12_a_pair_of_opposite_signs(values):
    result = hp.eigsh(operator(values))
    np.testing.assert_allclose(result.eigenvalues, [-2, 2], atol=4e-3)


@pytest.mark.parametrize("n", [2, 50])
def test_r13_a_zero_gradient_is_the_normal_case(n):
    point = hp.classify(diagonal, np.zeros(n, FLOAT), np.linspace(-1, 1, n).astype(FLOAT))
    assert point.grad_norm == 0
    assert point.label == "saddle"
    assert np.all(np.isfinite(point.escape_direction))
    move = hp.escape(diagonal, np.zeros(n, FLOAT), np.linspace(-1, 1, n).astype(FLOAT))
    assert move.status == "escaped"
    assert np.all(np.isfinite(move.params))


SADDLES = truth_points("axis_saddle")[:60]


@pytest.mark.parametrize("number", range(12))
def test_r14_axis_aligned_saddles(number):
    """Two of each size; `make truth` classifies all 300."""
    point = hp.classify(*known(SADDLES[number]))
    assert point.label == "saddle"
    assert point.certified
    assert point.escape_direction is not None


def named_quartic(p, data):
    """The same polynomial with one leaf per variable; `data` says which leaf is which variable."""
    curvatures, order = data
    x = jnp.stack([p[name] for name in sorted(p)])[order]
    return jnp.sum(0.5 * curvatures * x**2 + 0.25 * x**4)


@pytest.mark.parametrize("number", range(4, 60, 6))
def test_r14_names_and_order_of_the_variables_change_nothing(number):
    """Thirteen variables, each a leaf of its own; permuted, the same saddle in other leaves."""
    saddle = SADDLES[number]
    d = np.asarray(saddle.data[2])[:, 1] / saddle.size
    params = {f"{chr(97 + i)}": FLOAT.type(0) for i in range(saddle.size)}
    rng = np.random.default_rng(number)
    for order in (np.arange(saddle.size), rng.permutation(saddle.size)):
        point = hp.classify(named_quartic, params, (d.astype(FLOAT), order))
        assert point.label == "saddle"
        assert point.certified
        name = sorted(params)[order[int(np.argmin(d))]]
        largest = max(point.escape_direction, key=lambda leaf: abs(point.escape_direction[leaf]))
        assert largest == name
