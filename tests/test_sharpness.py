"""Sharpness: closed forms on quadratics, the dense Hessian, and re-scaled networks."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessian_probe as hp
from hessian_probe.arrays import generator
from hessian_probe.flatness.thresholds import EXACT_SIZE
from hessian_probe.problems.networks import mlp_init, mlp_loss
from hessian_probe.spectrum.trace import trace

pytestmark = [pytest.mark.any_promotion, pytest.mark.float32]
NAMES = ["lambda_max", "trace", "keskar", "filter_normalised"]
NAMES += ["adaptive_lambda_max", "adaptive_trace", "adaptive_maximum"]


def diagonal(count, seed=0):
    rng = np.random.default_rng(seed)
    curvature = 10.0 ** rng.uniform(-3, 1, count)
    return lambda p: 0.5 * jnp.sum(jnp.asarray(curvature) * p**2), rng.standard_normal(count), curvature


def network(widths=(9, 14, 3), seed=3, samples=40):
    """A network with ReLU units, its data, and its parameters after some training."""
    rng = np.random.default_rng(seed)
    data = jnp.asarray(rng.standard_normal((samples, widths[0]))), jnp.asarray(rng.integers(3, size=samples))
    loss = mlp_loss("relu", "cross_entropy")
    params = jax.tree.map(jnp.asarray, mlp_init(widths, seed=seed))

    def step(at, _):
        return jax.tree.map(lambda a, g: a - 0.2 * g, at, jax.grad(loss)(at, data)), None

    return loss, jax.jit(lambda p: jax.lax.scan(step, p, None, length=300)[0])(params), data


def layers_rescaled(params, factor):
    first, second, *rest = params
    first = {"weight": factor * first["weight"], "bias": factor * first["bias"]}
    return (first, {"weight": second["weight"] / factor, "bias": second["bias"]}, *rest)


def units_rescaled(params, factors):
    first, second, *rest = params
    first = {"weight": first["weight"] * factors, "bias": first["bias"] * factors}
    return (first, {"weight": second["weight"] / factors[:, None], "bias": second["bias"]}, *rest)


@pytest.mark.parametrize("count", [40, pytest.param(EXACT_SIZE + 40, marks=pytest.mark.slow)])
def test_a_diagonal_quadratic_has_the_closed_forms(count, x64):
    loss, x, h = diagonal(count)
    found = hp.sharpness(loss, jnp.asarray(x))
    value, widths = 0.5 * np.sum(h * x**2), 1e-3 * (np.abs(x) + 1)
    rise = np.sum(np.abs(h * x) * widths + 0.5 * h * widths**2)
    expected = {
        "lambda_max": h.max(),
        "trace": h.sum(),
        "keskar": 100 * rise / (1 + value),
        "filter_normalised": np.mean(x**2) * h.sum(),  # a single leaf of one axis is one filter
        "adaptive_lambda_max": np.max(h * x**2),
        "adaptive_trace": np.sum(h * x**2),
    }
    slack = 1e-9 if x64 else 1e-3
    for name, number in expected.items():
        measure = found[name]
        assert abs(measure.value - number) <= 4 * measure.error + slack * abs(number), name
        assert measure.error <= 0.2 * number
    assert found["trace"].error_kind == ("rounding" if count <= EXACT_SIZE else "standard_error")


def test_the_adaptive_maximum_of_a_quadratic_at_its_minimum_is_half_the_eigenvalue(x64):
    """Around x with no gradient, max ½zᵀAz over the ellipsoid is ½ρ²λ_max(TAT)."""
    rng = np.random.default_rng(4)
    root = rng.standard_normal((30, 30))
    matrix, x = root @ root.T, rng.standard_normal(30)

    def loss(p):
        return 0.5 * (p - x) @ jnp.asarray(matrix) @ (p - x)

    found = hp.sharpness(loss, jnp.asarray(x), adaptive_radius=0.3)
    scaled = np.abs(x)[:, None] * matrix * np.abs(x)
    expected = 0.5 * 0.3**2 * np.linalg.eigvalsh(scaled)[-1]
    assert found["adaptive_maximum"].value == pytest.approx(expected, rel=1e-6 if x64 else 1e-3)
    assert found["adaptive_lambda_max"].value == pytest.approx(2 * expected / 0.3**2, rel=1e-4)


def test_the_box_maximum_is_that_of_all_corners(x64):
    """A convex quadratic is largest at a corner: try all of them."""
    rng = np.random.default_rng(5)
    root, x = rng.standard_normal((9, 9)), rng.standard_normal(9)
    matrix = root @ root.T

    def loss(p):
        return 0.5 * (p - x) @ jnp.asarray(matrix) @ (p - x) + 2.0

    found = hp.sharpness(loss, jnp.asarray(x), keskar_box=0.1)["keskar"]
    corners = np.array(list(itertools.product([-1, 1], repeat=9))) * 0.1 * (np.abs(x) + 1)
    best = 100 * np.max(0.5 * np.sum((corners @ matrix) * corners, axis=1)) / 3
    assert found.value <= best * (1 + 1e-5)
    assert found.value == pytest.approx(best, rel=1e-9 if x64 else 1e-4)


@pytest.mark.slow
def test_a_network_agrees_with_its_dense_hessian():
    loss, params, data = network()
    found = hp.sharpness(loss, params, data)
    assert found.size > EXACT_SIZE
    flat, unravel = ravel_pytree(params)
    dense = np.asarray(jax.hessian(lambda v: loss(unravel(v), data))(flat), np.float64)
    sizes = np.abs(np.asarray(flat))
    roots = [
        np.broadcast_to(np.sqrt(np.mean(leaf**2, axis=0)), leaf.shape) if leaf.ndim == 2 else 0 * leaf
        for leaf in map(np.asarray, jax.tree.leaves(params))
    ]
    filters = np.concatenate([np.ravel(root) for root in roots])
    scaled = sizes[:, None] * dense * sizes
    largest = {"lambda_max": dense, "adaptive_lambda_max": scaled}
    for name, matrix in largest.items():
        assert abs(found[name].value - np.linalg.eigvalsh(matrix)[-1]) <= 2e-3 * np.linalg.norm(matrix, 2)
    summed = {
        "trace": dense,
        "adaptive_trace": scaled,
        "filter_normalised": filters[:, None] * dense * filters,
    }
    for name, matrix in summed.items():
        assert abs(found[name].value - np.trace(matrix)) <= 4 * found[name].error, name
        assert found[name].error <= 0.1 * np.trace(matrix)


@pytest.mark.slow
@pytest.mark.parametrize("small", [True, False])
def test_what_claims_to_be_invariant_is_and_the_others_are_not(small, x64):
    loss, params, data = network((4, 6, 5, 3)) if small else network()
    before = hp.sharpness(loss, params, data)
    assert (before.size <= EXACT_SIZE) == small
    factors = jnp.asarray(np.random.default_rng(1).uniform(0.3, 3.0, params[0]["bias"].shape))
    by_layers = hp.sharpness(loss, layers_rescaled(params, 5.0), data)
    by_units = hp.sharpness(loss, units_rescaled(params, factors), data)
    close = 1e-6 if x64 else 5e-3
    assert by_layers.loss == pytest.approx(before.loss, rel=1e-4)
    assert by_units.loss == pytest.approx(before.loss, rel=1e-4)
    for name in NAMES:
        kept = {
            "layers": by_layers[name].value == pytest.approx(before[name].value, rel=close),
            "units": by_units[name].value == pytest.approx(before[name].value, rel=close),
        }
        claims = before[name].invariance
        assert kept == {"layers": claims != "none", "units": claims == "units"}, (name, kept)
    for name in ("lambda_max", "trace"):
        assert by_layers[name].value > 2 * before[name].value


def test_hutch_plus_plus_is_unbiased_and_its_error_is_right():
    """Over many keys: mean within its error, and the stated error that of the estimates."""
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    matrix = jnp.asarray(basis * (1.0 / np.arange(1, 61)) @ basis.T)
    op = hp.hessian(lambda p: 0.5 * p @ matrix @ p, jnp.zeros(60), check=False)
    runs = [trace(op, 18, generator(jax.random.key(seed))) for seed in range(150)]
    values, errors = (np.array(part) for part in zip(*[(r.value, r.error) for r in runs], strict=True))
    exact = float(np.sum(1.0 / np.arange(1, 61)))
    assert abs(values.mean() - exact) <= 4 * values.std() / np.sqrt(len(values))
    assert 0.8 <= np.sqrt(np.mean(errors**2)) / values.std() <= 1.25
    assert all(run.num_hvps == 18 for run in runs)


def test_a_map_of_low_rank_is_summed_exactly():
    rng = np.random.default_rng(0)
    factor = jnp.asarray(rng.standard_normal((3, 200)))
    found = hp.sharpness(lambda p: 0.5 * jnp.sum((factor @ p) ** 2), jnp.zeros(200))["trace"]
    assert found.value == pytest.approx(float(jnp.sum(factor**2)), rel=1e-4)
    assert found.error <= 1e-4 * found.value


@pytest.mark.slow
def test_it_prints_and_becomes_json():
    loss, params, data = network((4, 6, 5, 3))
    found = hp.sharpness(loss, params, data)
    text = repr(found)
    assert [m.name for m in found.measures] == NAMES
    assert all(name in text for name in NAMES)
    assert "kinks" in text
    back = json.loads(json.dumps(found.to_json()))
    assert [m["name"] for m in back["measures"]] == NAMES
    assert back["measures"][1]["value"] == found["trace"].value
    assert max(map(len, text.splitlines()[1:8])) <= 125
    assert "tr H" in repr(found["trace"])
    with pytest.raises(KeyError, match="not measured"):
        found["flatness"]


def test_numbers_that_do_not_exist_are_nan():
    """A loss below −1 has no sharpness of Keskar's; one that ends within the region no maximum."""
    low = hp.sharpness(lambda p: jnp.sum(p**2) - 5.0, jnp.ones(3))
    assert np.isnan(low["keskar"].value)
    assert low["trace"].value == pytest.approx(6.0, rel=1e-5)
    ends = hp.sharpness(lambda p: jnp.sum(jnp.sqrt(1.2 - p)), jnp.ones(3))
    assert np.isnan(ends["adaptive_maximum"].value)
    assert json.loads(json.dumps(ends.to_json()))["measures"][-1]["value"] is None


def test_at_zero_nothing_moves_in_proportion():
    found = hp.sharpness(lambda p: jnp.sum(p**2), jnp.zeros(4))
    assert [found[name].value for name in NAMES[4:]] == [0.0, 0.0, 0.0]
    assert found["keskar"].value == pytest.approx(100 * 4e-6, rel=1e-4)


@pytest.mark.parametrize("options", [{"num_probes": 3}, {"keskar_box": 0.0}, {"adaptive_radius": np.inf}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        hp.sharpness(lambda p: jnp.sum(p**2), jnp.ones(3), **options)


def test_a_filter_axis_that_a_weight_lacks_is_refused():
    with pytest.raises(ValueError, match="filter_axis is 2"):
        hp.sharpness(lambda p: jnp.sum(p**2), jnp.ones((3, 3)), filter_axis=2)


@pytest.mark.parametrize(("count", "kind"), [(100, "rounding"), (140, "standard_error")])
@pytest.mark.slow
def test_small_problems_are_computed_exactly(count, kind):
    loss, x, _ = diagonal(count)
    assert hp.sharpness(loss, jnp.asarray(x))["trace"].error_kind == kind


def test_each_maximum_has_five_starts():
    """On a plane the gradient's start ends after two steps, the other four after three."""
    assert hp.sharpness(lambda p: jnp.sum(p), jnp.ones(3))["keskar"].num_evaluations == 2 + 4 * 3


@pytest.mark.parametrize(("lowest", "number"), [(0.5, 26), (0.9, 26), (0.93, 10)])
def test_an_ascent_ends_after_ten_steps_or_where_one_raises_it_by_less_than_a_thousandth(lowest, number):
    """At a minimum three starts take two steps; the random ones are the power method on `lowest` to 1."""
    curvature = jnp.linspace(lowest, 1, 120)
    found = hp.sharpness(lambda p: 0.5 * jnp.sum(curvature * (p - 1) ** 2), jnp.ones(120))
    assert found["adaptive_maximum"].num_evaluations == number


def rough(p):
    """The gradient is 1 at zero; the second derivative is 0·∞ there."""
    return jnp.sum((p**2) ** 1.5) + jnp.sum(p)


@pytest.mark.parametrize("size", [3, 200], ids=["dense", "by products"])
def test_a_hessian_that_is_not_finite_has_no_curvature_and_says_so(size):
    found = hp.sharpness(rough, jnp.zeros(size))
    for name in ("lambda_max", "trace", "adaptive_lambda_max"):
        assert np.isnan(found[name].value)
    assert "not finite" in found.evidence[0]
    assert "nan" in str(found).lower()
