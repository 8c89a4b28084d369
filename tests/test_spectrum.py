"""Both ends of spectra that are known, by the dense route and by Lanczos."""

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

import hessian_probe as hp
from benchmarks.coverage import missed_fraction
from hessian_probe.spectrum.certificate import steps_for

FLOAT = np.asarray(jnp.zeros(())).dtype
EPS = float(np.finfo(FLOAT).eps)
TINY = float(np.finfo(FLOAT).tiny)


def reflected(p, data):
    """Quadratic form with eigenvalues d; its eigenvectors are the columns of I − 2uu'."""
    d, u = data
    z = p - 2.0 * u * jnp.dot(u, p)
    return 0.5 * jnp.sum(d * z * z)


def problem(eigenvalues, seed=0):
    """The operator, and its matrix in float64 from the very numbers that the operator holds."""
    d = np.asarray(eigenvalues, FLOAT)
    u = np.random.default_rng(seed).standard_normal(d.size)
    u = (u / np.linalg.norm(u)).astype(FLOAT)
    wide_d, wide_u = d.astype(np.float64), u.astype(np.float64)
    mirror = np.eye(d.size) - 2 * np.outer(wide_u, wide_u)
    matrix = mirror.T @ (wide_d[:, None] * mirror)
    return hp.hessian(reflected, np.zeros(d.size, FLOAT), (d, u)), matrix


def rows(result):
    return np.asarray(result.eigenvectors, np.float64)


def assert_sound(result, matrix, slack=100.0):
    """What holds for every result: orthonormal, inside the spectrum, residuals that are true."""
    top = max(float(np.max(np.abs(np.linalg.eigvalsh(matrix)))), TINY)
    vectors, values = rows(result), result.eigenvalues
    noise = slack * EPS * top
    assert np.all(np.isfinite(vectors))
    assert np.all(np.isfinite(values))
    assert np.all(np.diff(values) >= -noise)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(values)), atol=slack * EPS)
    inside = np.linalg.eigvalsh(matrix)
    assert np.all(values >= inside[0] - noise)
    assert np.all(values <= inside[-1] + noise)
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    np.testing.assert_allclose(result.residual_norms, true, rtol=0.01, atol=noise)
    nearest = np.min(np.abs(values[:, None] - inside[None, :]), axis=1)
    assert np.all(nearest <= result.residual_norms + noise)
    np.testing.assert_array_equal(result.converged, result.residual_norms <= result.rtol * result.norm)


def assert_ends(result, eigenvalues, lowest=1, highest=1, accuracy=2e-3):
    """The wanted ends of the true spectrum, every copy counted, to `accuracy`·‖H‖."""
    exact = np.sort(np.asarray(eigenvalues, np.float64))
    wanted = np.r_[exact[:lowest], exact[len(exact) - highest :]]
    assert len(result.eigenvalues) == lowest + highest
    top = np.max(np.abs(exact))
    np.testing.assert_allclose(result.eigenvalues, wanted, rtol=0, atol=accuracy * top + TINY)


# Spectra of n = 50; "rank 3" and "identity" are what naive Lanczos answers with garbage and NaN.
SPECTRA = {
    "rank 3": [4.0, 2.0, 1.0, *[0.0] * 47],
    "identity": [1.0] * 50,
    "minus identity": [-1.0] * 50,
    "zero": [0.0] * 50,
    "rank 1": [-2.0, *[0.0] * 49],
    "nearly symmetric": [10.0, -9.9, *np.linspace(0, 1, 48)],
    "symmetric pairs": [*np.linspace(-3, -1, 25), *np.linspace(1, 3, 25)],
    "two values": [*[-1.0] * 25, *[1.0] * 25],
    "one outlier below": [-5.0, *np.linspace(0.01, 3, 49)],
    "one outlier above": [*np.linspace(0.01, 1, 49), 1000.0],
    "graded": np.logspace(-12, 0, 50),
    "graded, both signs": [*-np.logspace(-9, 0, 25), *np.logspace(-9, 0, 25)],
    "linear": np.linspace(-1, 1, 50),
    "tight top": [*np.linspace(0, 1, 48), 1.0001, 1.0002],
}


@pytest.mark.parametrize("name", SPECTRA)
def test_one_pair_at_either_end(name):
    op, matrix = problem(SPECTRA[name])
    result = hp.eigsh(op)
    assert result.method == "lanczos"
    assert result.status == "converged"
    assert_ends(result, SPECTRA[name])
    assert_sound(result, matrix)
    assert np.all(result.converged)
    assert result.num_lowest == 1


@pytest.mark.parametrize("name", SPECTRA)
def test_several_pairs_at_either_end_and_no_copy_missed(name):
    op, matrix = problem(SPECTRA[name])
    result = hp.eigsh(op, lowest=4, highest=5, rtol=1e-4)
    assert result.method == "lanczos"
    assert_ends(result, SPECTRA[name], 4, 5, accuracy=4e-4)
    assert_sound(result, matrix)
    assert result.status == "converged"


@pytest.mark.parametrize("name", ["rank 3", "two values", "graded, both signs"])
def test_the_dense_route_agrees(name):
    op, matrix = problem(SPECTRA[name])
    result = hp.eigsh(op, lowest=25, highest=25)
    assert result.method == "dense"
    assert_ends(result, SPECTRA[name], 25, 25, accuracy=200 * EPS)
    assert_sound(result, matrix)


@pytest.mark.parametrize("name", ["rank 3", "nearly symmetric", "graded", "two values"])
@pytest.mark.parametrize("scale", [1e-20, 1e-12, 1e12, 1e20])
def test_the_scale_of_the_loss_is_no_matter(name, scale):
    values = np.asarray(SPECTRA[name]) * scale
    op, matrix = problem(values)
    result = hp.eigsh(op, lowest=2, highest=3)
    assert_ends(result, values, 2, 3)
    assert_sound(result, matrix)
    assert result.status == "converged"


@pytest.mark.parametrize("seed", range(5))
def test_the_key_changes_nothing_but_rounding(seed):
    op, matrix = problem(SPECTRA["nearly symmetric"])
    result = hp.eigsh(op, key=jax.random.key(seed), rtol=1e-4)
    assert_ends(result, SPECTRA["nearly symmetric"], accuracy=2e-4)
    assert_sound(result, matrix)


def test_no_key_gives_the_same_answer_twice():
    results = [hp.eigsh(problem(SPECTRA["linear"])[0], lowest=2) for _ in range(2)]
    one, two = results
    np.testing.assert_array_equal(one.eigenvalues, two.eigenvalues)
    np.testing.assert_array_equal(one.eigenvectors, two.eigenvectors)
    assert one.num_hvps == two.num_hvps


@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        ([3.0], 1, 0),
        ([3.0], 0, 1),
        ([-3.0], 1, 1),
        ([0.0], 1, 1),
        ([-1.0, 2.0], 1, 1),
        ([2.0, 2.0], 2, 0),
        ([-1.0, 2.0], 2, 2),
        ([1.0, 1.0, 1.0], 1, 2),
        ([-2.0, 1.0, 2.0], 0, 3),
        ([0.0, 0.0, 5.0], 3, 0),
    ],
)
def test_one_two_and_three_variables(values, lowest, highest):
    op, matrix = problem(values)
    result = hp.eigsh(op, lowest=lowest, highest=highest)
    total = min(lowest + highest, len(values))
    assert len(result.eigenvalues) == total
    if lowest + highest <= len(values):
        assert_ends(result, values, lowest, highest, accuracy=100 * EPS)
    else:
        np.testing.assert_allclose(result.eigenvalues, np.sort(values), atol=1e3 * EPS)
        assert "overlap" in result.evidence[0]
    assert_sound(result, matrix)


def test_all_pairs_once_where_the_ends_meet():
    op, matrix = problem(np.arange(-3.0, 7.0))
    for lowest, highest in ((10, 0), (5, 5), (10, 10), (0, 10)):
        result = hp.eigsh(op, lowest=lowest, highest=highest)
        np.testing.assert_allclose(result.eigenvalues, np.arange(-3.0, 7.0), atol=1e3 * EPS)
        assert_sound(result, matrix)


@pytest.mark.parametrize("max_basis", [6, 9, 16])
def test_a_small_basis_restarts(max_basis):
    values = np.r_[-1.0, np.linspace(0, 1, 197), 1.5, 2.0]
    op, matrix = problem(values)
    result = hp.eigsh(op, lowest=1, highest=2, max_basis=max_basis)
    assert result.status == "converged"
    assert_ends(result, values, 1, 2)
    assert_sound(result, matrix)


@pytest.mark.parametrize("max_basis", [12, 128])
def test_restarts_lose_no_copy(max_basis):
    values = np.r_[[-1.0] * 3, np.linspace(0, 1, 194), [2.0] * 3]
    op, matrix = problem(values)
    result = hp.eigsh(op, lowest=4, highest=4, max_basis=max_basis)
    assert_ends(result, values, 4, 4)
    # Rounding adds up: with a basis of 12 there are more than a hundred restarts.
    assert_sound(result, matrix, slack=100.0 * max(1.0, np.sqrt(result.num_hvps / 200)))


def test_a_warm_start_is_cheaper_and_still_sees_everything():
    values = np.r_[-1.0, np.linspace(0, 0.9, 198), 1.0]
    op, _ = problem(values)
    hp.eigsh(op)  # the first job of an operator pays for its self-check
    cold = hp.eigsh(op, lowest=1, highest=0, rtol=1e-3)
    warm = hp.eigsh(op, lowest=1, highest=0, rtol=1e-3, initial=cold.vector(0))
    assert warm.num_hvps < cold.num_hvps
    assert_ends(warm, values, 1, 0)
    # A start that holds none of the wanted eigenvector: that of the other end.
    other = hp.eigsh(op, lowest=0, highest=1).vector(0)
    assert_ends(hp.eigsh(op, lowest=1, highest=0, initial=other), values, 1, 0)
    with pytest.raises(ValueError, match="initial"):
        hp.eigsh(op, initial=np.zeros(3, FLOAT))


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 10, 20])
def test_a_budget_that_runs_out_says_so_and_keeps_what_it_has(budget):
    op, matrix = problem(np.linspace(-1, 1, 200))
    op(np.ones(200, FLOAT))  # the self-check is not part of the job
    before = op.num_hvps
    result = hp.eigsh(op, lowest=2, highest=2, rtol=1e-6, max_hvps=budget)
    assert result.status == "max_hvps"
    assert result.num_hvps == op.num_hvps - before
    assert result.num_hvps <= budget
    assert "products" in result.evidence[0]
    assert "finite" not in result.evidence[0]
    if len(result.eigenvalues):
        assert_sound(result, matrix)
    if len(result.eigenvalues) < 4:
        assert "of 4 pairs" in result.evidence[0]
    with pytest.raises(hp.NotConvergedError, match="max_hvps") as caught:
        result.require()
    assert caught.value.result is result


def test_the_error_of_an_unfinished_job_can_be_sent_to_another_process():
    op, _ = problem(np.linspace(-1, 1, 200))
    with pytest.raises(hp.NotConvergedError) as caught:
        hp.eigsh(op, max_hvps=5).require()
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value)
    np.testing.assert_array_equal(copy.result.eigenvalues, caught.value.result.eigenvalues)


def test_a_tolerance_below_rounding_stagnates_honestly():
    op, matrix = problem(np.linspace(-1, 1, 50))
    for result in (hp.eigsh(op, rtol=1e-18), hp.eigsh(op, lowest=25, highest=25, rtol=1e-18)):
        assert_sound(result, matrix)
        assert not np.all(result.converged)
        assert result.status == "stagnated"


def test_the_search_goes_on_where_a_true_residual_is_above_the_tolerance():
    """An antisymmetric part couples the lowest vector to a random one: residual estimates do not see it.

    It adds 0.96 of the tolerance to the true residual, so the first pair accepted by its estimate fails.
    """
    rtol, n = 1e-3, 200
    op, matrix = problem(np.linspace(-1, 1, n))
    lowest = np.linalg.eigh(matrix)[1][:, 0]
    other = np.random.default_rng(0).standard_normal(n)
    other -= lowest * (lowest @ other)
    couple = 0.48 * rtol / np.linalg.norm(other) * np.outer(other, lowest)
    part = jnp.asarray(couple - couple.T, FLOAT)
    multiply = op.apply
    op.apply = lambda v: tuple(image + part @ x for image, x in zip(multiply(v), v, strict=True))
    found = hp.eigsh(op, rtol=rtol)
    assert found.status == "converged"
    product = rows(found) @ (matrix + np.asarray(part, np.float64)).T
    true = np.linalg.norm(product - found.eigenvalues[:, None] * rows(found), axis=1)
    np.testing.assert_allclose(found.residual_norms, true, rtol=0.01, atol=100 * EPS)
    assert 0.9 * rtol < true[0] <= rtol * found.norm


def kinked(p):
    """|x|^1.5: loss and gradient are finite at 0, the second derivative is not."""
    return jnp.sum(jnp.abs(p) ** 1.5)


@pytest.mark.parametrize("n", [3, 50])
def test_products_that_are_not_finite_are_a_status(n):
    result = hp.eigsh(hp.hessian(kinked, np.zeros(n, FLOAT)))
    assert result.status == "nonfinite"
    assert "not finite" in result.evidence[0]
    assert np.all(np.isfinite(result.eigenvalues))
    with pytest.raises(hp.NotConvergedError, match="nonfinite"):
        result.require()


def interfering(op, after, action):
    """Let `action` change what the operator's product returns, from call number `after` on."""
    multiply, calls = op.apply, []

    def apply(v):
        calls.append(v)
        product = multiply(v)
        return action(product) if len(calls) > after else product

    op.apply = apply
    return op


def test_a_product_that_fails_late_leaves_the_pairs_found_before():
    op, matrix = problem(np.linspace(-1, 1, 50))
    poisoned = interfering(op, 9, lambda w: tuple(leaf * jnp.nan for leaf in w))
    result = hp.eigsh(poisoned, rtol=1e-6)
    assert result.status == "nonfinite"
    assert len(result.eigenvalues) == 2
    assert_sound(result, matrix)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["progress", "product"])
def test_an_interrupt_keeps_the_partial_result(where):
    op, matrix = problem(np.linspace(-1, 1, 50))
    told = []

    def progress(line):
        told.append(line)
        if where == "progress" and len(told) == 8:
            raise KeyboardInterrupt

    if where == "product":
        op = interfering(op, 12, interrupt)
    result = hp.eigsh(op, rtol=1e-6, progress=progress)
    assert result.status == "interrupted"
    assert len(result.eigenvalues) == 2
    assert told
    assert "products" in told[0]
    assert not np.all(result.converged)
    vectors = rows(result)
    true = np.linalg.norm(vectors @ matrix - result.eigenvalues[:, None] * vectors, axis=1)
    np.testing.assert_allclose(result.residual_norms, true, rtol=0.05, atol=100 * EPS)


@pytest.mark.slow
def test_leaves_that_the_loss_ignores_have_curvature_zero():
    """By either route: the Hessian is n by n, and those rows are zero."""

    def loss(p):
        return 0.5 * jnp.sum(jnp.arange(1, p["w"].size + 1, dtype=FLOAT) * p["w"] ** 2)

    for n in (10, 60):
        op = hp.hessian(loss, {"unused": np.ones(4, FLOAT), "w": np.ones(n, FLOAT)})
        result = hp.eigsh(op, lowest=2, highest=1)
        np.testing.assert_allclose(result.eigenvalues, [0, 0, n], atol=2e-3 * n, err_msg=str(n))


def test_several_leaves_and_dtypes_make_one_space():
    params = {
        "a": np.zeros((5, 6), FLOAT),
        "b": np.zeros((), FLOAT),
        "c": np.zeros((0, 2), FLOAT),
        "s": "text",
    }

    def loss(p):
        return (
            jnp.sum(jnp.linspace(1, 2, 30, dtype=FLOAT).reshape(5, 6) * p["a"] ** 2)
            - p["b"] ** 2
            + 3 * p["b"] * p["a"][0, 0]
        )

    matrix = np.diag([*(2 * np.linspace(1, 2, 30)), -2.0])
    matrix[0, 30] = matrix[30, 0] = 3
    op = hp.hessian(loss, params)
    for result in (hp.eigsh(op), hp.eigsh(op, max_hvps=30)):
        np.testing.assert_allclose(result.eigenvalues, np.linalg.eigvalsh(matrix)[[0, -1]], atol=1e-2)
        vector = result.vector(0)
        assert vector["s"] == "text"
        assert vector["a"].shape == (5, 6)
        flat = np.r_[np.asarray(vector["a"]).ravel(), np.asarray(vector["b"])]
        np.testing.assert_allclose(np.linalg.norm(flat), 1, atol=100 * EPS)
        np.testing.assert_allclose(
            np.linalg.norm(matrix @ flat - result.eigenvalues[0] * flat),
            result.residual_norms[0],
            atol=1e3 * EPS,
        )


def test_scipy_finds_the_same_pairs():
    values = np.r_[-2.0, -1.5, np.linspace(-1, 1, 196), 2.5, 3.0]
    op, _ = problem(values)
    ours = hp.eigsh(op, lowest=2, highest=2, rtol=1e-5)
    theirs = scipy.sparse.linalg.eigsh(op.to_scipy(), k=4, which="BE", tol=1e-6, return_eigenvectors=False)
    np.testing.assert_allclose(ours.eigenvalues, np.sort(theirs), atol=1e-4)


def test_products_spent_on_easy_ends():
    """Two isolated ends of 1,000: a dozen products, not a share of n."""
    values = np.r_[-3.0, np.linspace(-1, 1, 998), 3.0]
    op, matrix = problem(values)
    result = hp.eigsh(op)
    assert_ends(result, values)
    assert_sound(result, matrix)
    assert result.num_hvps <= 30


BAD_OPTIONS = {
    "negative": ({"lowest": -1}, ValueError, "lowest=-1"),
    "too many": ({"highest": 51}, ValueError, "highest=51.*50"),
    "none": ({"lowest": 0, "highest": 0}, ValueError, "both 0"),
    "rtol 0": ({"rtol": 0.0}, ValueError, "rtol"),
    "rtol nan": ({"rtol": math.nan}, ValueError, "rtol"),
    "budget 0": ({"max_hvps": 0}, ValueError, "max_hvps"),
    "basis": ({"max_basis": 3}, ValueError, "max_basis"),
    "half a pair": ({"lowest": 1.5}, (TypeError, ValueError), "lowest"),
    "text": ({"lowest": "all"}, (TypeError, ValueError), "lowest"),
    "seed": ({"key": "seed"}, TypeError, "key"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_wrong_options_are_refused(kind):
    options, error, message = BAD_OPTIONS[kind]
    op, _ = problem(SPECTRA["linear"])
    with pytest.raises(error, match=message):
        hp.eigsh(op, **options)


def test_what_is_no_operator_is_refused():
    with pytest.raises(TypeError, match=r"hp\.hessian"):
        hp.eigsh(np.eye(3))


@pytest.mark.parametrize("size", [10, 400, 10**6])
@pytest.mark.parametrize("confidence", [0.9, 0.99, 0.9999])
def test_the_bound_and_the_steps_for_it_agree(size, confidence):
    for fraction in (0.9, 0.1, 1e-2, 1e-3):
        steps = steps_for(size, fraction, confidence)
        assert missed_fraction(size, steps, confidence) <= fraction
        if 1 < steps < size:
            assert missed_fraction(size, steps - 1, confidence) > fraction
    fractions = [missed_fraction(size, k, confidence) for k in range(1, 60)]
    assert np.all(np.diff(fractions) <= 0)
    assert missed_fraction(size, size, confidence) == 0
    assert missed_fraction(size, 0, confidence) == 1
    assert steps_for(size, 0.0, confidence) == size


def test_the_bound_is_the_published_one():
    """n = 400, k = 30, δ = 0.01: (ln(1.648·20/0.01)/59)², worked out by hand."""
    assert missed_fraction(400, 30, 0.99) == pytest.approx((math.log(3296.0) / 59) ** 2)


@pytest.mark.parametrize("spectrum", ["uniform", "outlier", "cluster"])
def test_the_bound_holds_for_lanczos_in_numpy(spectrum):
    """300 random starts, exact arithmetic for all that matters: n = 60 in the eigenbasis."""
    n, k, confidence = 60, 8, 0.9
    values = {
        "uniform": np.linspace(0, 1, n),
        "outlier": np.r_[np.linspace(0, 0.8, n - 1), 1.0],
        "cluster": np.r_[np.zeros(n - 3), 0.99, 0.995, 1.0],
    }[spectrum]
    rng = np.random.default_rng(0)
    allowed, missed = missed_fraction(n, k, confidence), 0
    for _ in range(300):
        start = rng.standard_normal(n)
        krylov = np.stack([start * values**power for power in range(k)], axis=1)
        basis = np.linalg.qr(krylov)[0]
        top = np.linalg.eigvalsh(basis.T @ (values[:, None] * basis))[-1]
        missed += (1.0 - top) > allowed
    assert missed <= 300 * (1 - confidence)


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_loose_cluster_ends_soon_after_its_pairs_have_converged(spread, seed):
    """The lower end holds twelve values nearer to each other than the tolerance."""
    rng = np.random.default_rng(0)
    inner = np.clip(np.sort(rng.standard_normal(1483) * 0.25), -0.82, 5)
    values = np.concatenate([np.sort(-1.05 + spread * rng.random(12)), [51.4, 57.7, 69.9, 73.1, 99.0], inner])
    scale = jnp.asarray(values, jnp.float32)
    op = hp.hessian(lambda x: 0.5 * jnp.sum(scale * x * x), jnp.zeros(len(values), jnp.float32))
    found = hp.eigsh(op, lowest=5, highest=5, max_hvps=600, key=jax.random.key(seed)).require()
    assert found.num_hvps <= 120
    true = np.sort(values)[[0, 1, 2, 3, 4, -5, -4, -3, -2, -1]]
    np.testing.assert_allclose(found.eigenvalues, true, atol=2 * found.rtol * found.norm)


def test_every_value_is_accounted_for_where_it_is_printed():
    values = np.concatenate([-np.arange(40.0, 110, 10), np.linspace(0, 1, 400), np.arange(45.0, 105, 10)])
    scale = jnp.asarray(values)
    op = hp.hessian(lambda x: 0.5 * jnp.sum(scale * x * x), jnp.zeros(len(values)))
    lines = str(hp.eigsh(op, lowest=7, highest=6)).splitlines()
    assert any(line.split()[0] == "λ[4…8]" and "5 more, -60" in line for line in lines)
    assert sum("λ[" in line for line in lines) == 9


def test_values_that_are_not_told_apart_are_not_called_copies():
    squares = jnp.arange(1.0, 400.0) ** 2
    op = hp.hessian(lambda x: 0.5 * jnp.sum(squares * x * x), jnp.zeros(399))
    text = str(hp.eigsh(op, lowest=5, highest=4))
    assert "5 values from" in text
    assert "not told apart" in text
    assert "×" not in text
