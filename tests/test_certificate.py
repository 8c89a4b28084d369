"""What a Krylov run from a random start proves of the eigenvalues that it has not shown."""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import beta

import hessian_probe as hp
from hessian_probe.spectrum.certificate import log_inverse_weight, steps_for
from hessian_probe.spectrum.krylov import Krylov


def diagonal_operator(values):
    values = jnp.asarray(values)
    return hp.hessian(lambda x: 0.5 * jnp.sum(values * x * x), jnp.zeros_like(values), check=False)


def bulk(rng, n):
    return np.sort(np.r_[rng.uniform(0.0, 1.0, n - 3), 2.0, 3.0, 5.0])


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 10**6])
@pytest.mark.parametrize("confidence", [0.5, 0.99, 0.999999])
def test_a_random_start_rarely_has_a_weight_below_the_one_assumed(size, confidence):
    weight = math.exp(-log_inverse_weight(size, confidence))
    # ⟨b, u⟩² follows Beta(1/2, (n − 1)/2); for n = 1 the weight is always 1.
    chance = beta.cdf(weight**2, 0.5, 0.5 * (size - 1)) if size > 1 else float(weight >= 1)
    assert chance <= (1 - confidence) * (1 + 1e-9)
    if size > 100 and confidence > 0.9:
        assert chance >= 0.98 * (1 - confidence), "the bound is nearly exact"


@pytest.mark.parametrize("restarts", [False, True])
def test_growth_is_that_of_a_component_too_small_to_be_seen(restarts, x64, key):
    """An eigenvector with a weight of 1e-25 grows by the polynomials alone; restarts change nothing."""
    rng = np.random.default_rng(3)
    hidden = [-0.05, 5.2]
    values = np.r_[bulk(rng, 120), hidden]
    start = rng.standard_normal(122)
    start[-2:] = 1e-25
    krylov = Krylov(diagonal_operator(values), (jnp.asarray(start),), rng, 24 if restarts else 60)
    weight = 1e-25 / np.linalg.norm(start)
    checked = 0
    for _ in range(40):
        if krylov.full:
            krylov.restart(np.r_[0:5, krylov.size - 5 : krylov.size])
        assert krylov.step()
        rows = np.asarray(krylov.basis[0], np.float64)[: krylov.size + 1]
        for column, x in zip((-2, -1), hidden, strict=True):
            # Beyond this the component has been seen, and x is a Ritz value's neighbour.
            seen = np.linalg.norm(rows[:, column])
            if krylov.certificate().log_growth(x) > 0 and seen < 1e-6:
                assert math.log(seen / weight) == pytest.approx(
                    krylov.certificate().log_growth(x), abs=1e-6 if x64 else 0.02
                )
                checked += 1
    assert checked > 30


@pytest.mark.parametrize("n", [300, 3000])
@pytest.mark.parametrize("negative_tol", [1e-2, 1e-3])
def test_the_steps_said_beforehand_are_enough(n, negative_tol):
    """Deterministic: after `steps_for` products nothing is left below −negative_tol·‖H‖ to doubt."""
    rng = np.random.default_rng(n)
    values = np.r_[1e-9, rng.uniform(1e-9, 1.0, n - 2), 1.0]
    fraction = (values[0] + negative_tol) / (1 + negative_tol)
    steps = steps_for(n, fraction, 0.99)
    krylov = Krylov(diagonal_operator(values), None, rng, steps)
    while krylov.steps < steps:
        krylov.step()
    certificate = krylov.ended_runs[0] if krylov.ended_runs else krylov.certificate()
    assert certificate.lower_bound(n, 0.99) >= -negative_tol
    assert certificate.log_growth(-negative_tol) >= log_inverse_weight(n, 0.99)


def test_a_space_that_has_not_begun_says_nothing():
    krylov = Krylov(diagonal_operator(np.arange(1.0, 40.0)), None, np.random.default_rng(0), 10)
    assert krylov.certificate().lower_bound(39, 0.99) == -np.inf
    assert krylov.certificate().upper_bound(39, 0.99) == np.inf
    assert krylov.certificate().log_growth(-5.0) == 0


@pytest.mark.parametrize("confidence", [0.9, 0.999])
def test_bounds_enclose_the_ends_and_tighten(confidence):
    rng = np.random.default_rng(5)
    values = bulk(rng, 400)
    krylov = Krylov(diagonal_operator(values), None, rng, 60)
    widths = []
    while not krylov.full:
        krylov.step()
        certificate = krylov.certificate()
        low, high = certificate.lower_bound(400, confidence), certificate.upper_bound(400, confidence)
        assert low <= values[0]
        assert high >= values[-1] - 1e-6
        widths.append(high - low)
    assert all(a >= b - 1e-6 for a, b in pairwise(widths))
    assert widths[-1] < 1.03 * (values[-1] - values[0])


def test_after_a_breakdown_the_statement_is_that_of_the_run_before():
    """One distinct eigenvalue: one product leaves rounding, and the growth outside it is 1/rounding."""
    krylov = Krylov(diagonal_operator(np.ones(500)), None, np.random.default_rng(0), 20)
    for _ in range(5):
        krylov.step()
    assert krylov.invariant
    certificate = krylov.ended_runs[0]
    assert certificate.steps == 1
    assert certificate.lower_bound(500, 0.99) > 0.9
    assert krylov.certificate().steps < 5
