"""Every point's truth, checked densely in float64 against oracles that do not share its code."""

import itertools
import sys
from collections import Counter

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from benchmarks.truth_points import TRUTH_KINDS, truth_points
from benchmarks.truth_points.clusters import cluster_points
from benchmarks.truth_points.linear_tables import linear_network_points
from benchmarks.truth_points.plane_tables import closed_form_points, styblinski_tang_points
from benchmarks.truth_points.plateaus import plateau_points
from hessian_probe import problems

needs_x64 = pytest.mark.skipif(
    not jax.config.jax_enable_x64, reason="the truth does not depend on the suite's precision"
)
# Drawn from seeds, and verified in test_constructions.py.
DRAWN = ("certificate", "noise", "precision", "flat", "scale", "kink", "slope")
_COMPILED = {}


def compiled(point):
    """Value of a point's loss on flat parameters, and all derivatives; one pair per family."""
    shapes = tuple(np.shape(leaf) for leaf in jax.tree.leaves((point.params, point.data)))
    key = (point.loss, jax.tree.structure(point.params), shapes)
    if key not in _COMPILED:
        unravel = ravel_pytree(point.params)[1]

        def loss(x, *data):
            return point.loss(unravel(x), *data)

        def derivatives(x, *data):
            gradient, product = jax.linearize(lambda at: jax.grad(loss)(at, *data), x)
            # Eight columns at a time: twice as fast as all at once for a thousand parameters.
            hessian = jax.lax.map(product, jax.numpy.eye(x.size, dtype=x.dtype), batch_size=8)
            return loss(x, *data), gradient, hessian

        _COMPILED[key] = jax.jit(loss), jax.jit(derivatives)
    return _COMPILED[key]


def dense(point, at=None):
    """Value, gradient and Hessian of a point's loss on flat parameters."""
    x = flat_params(point) if at is None else at
    return tuple(map(np.asarray, compiled(point)[1](x, *point.args[1:])))


def value(point, at=None):
    """Value of a point's loss at flat parameters."""
    x = flat_params(point) if at is None else at
    return float(compiled(point)[0](x, *point.args[1:]))


def flat_params(point):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(point.params)])


def inertia(values):
    """Counts of negative, zero and positive eigenvalues; zero is below 1e-9 of the largest."""
    # 1e-9: no non-zero eigenvalue of any table is below 1e-4 of its largest, no zero above 1e-12.
    zero = 1e-9 * np.abs(values).max()
    return tuple(int(np.sum(which)) for which in (values < -zero, np.abs(values) <= zero, values > zero))


def check_second_order(point):
    _, gradient, hessian = dense(point)
    values = np.linalg.eigvalsh(hessian)
    scale = np.abs(values).max()
    if point.label != "not_critical":
        # Rounding of the coordinates moves the gradient by ‖H‖ × eps × ‖params‖.
        size = max(1.0, np.linalg.norm(flat_params(point)))
        assert np.linalg.norm(gradient) <= 1e-12 * max(scale, 1e-300) * size * 10 or scale == 0.0
    negative, zero, positive = inertia(values) if scale else (0, values.size, 0)
    if point.index is not None:
        assert negative == point.index
    if point.num_zero is not None:
        assert zero == point.num_zero
    if point.eigenvalue_range is not None:
        expected = np.asarray(point.eigenvalue_range)
        np.testing.assert_allclose(values[[0, -1]], expected, rtol=1e-7, atol=1e-9 * scale)
    if point.label != "not_critical":
        assert point.degenerate == (zero > 0 and not (negative and positive))
    if not point.degenerate and point.label in ("minimum", "maximum", "saddle"):
        assert point.label == problems.known_point.label_from_signs(negative, zero, positive)


@pytest.mark.slow
@needs_x64
@pytest.mark.parametrize("kind", [k for k in TRUTH_KINDS if k not in DRAWN and k != "plateau"])
def test_second_order_agrees_with_dense_eigenvalues(kind):
    points = truth_points(kind)
    assert points
    assert len({point.name for point in points}) == len(points)
    for point in points:
        assert point.kind == kind
        assert point.why
        check_second_order(point)


@needs_x64
def test_minima_have_nothing_lower_around():
    """A degenerate minimum is not proved by its Hessian: sample around it, at several distances."""
    rng = np.random.default_rng(0)
    kinds = ("degenerate", "linear_network", "cluster", "lecture")
    minima = [p for p in truth_points(kinds) if p.label == "minimum" and p.degenerate]
    assert len(minima) > 15
    for point in minima:
        x = flat_params(point)
        here = value(point, x)
        for radius in (0.1, 0.01, 0.001):
            for _ in range(20):
                step = rng.standard_normal(x.size)
                there = value(point, x + radius * step / np.linalg.norm(step))
                assert there >= here - 1e-13 * max(1.0, abs(here)), point


def lower_curve(point):
    """A curve t -> parameters through the point on which the loss is lower for small t > 0."""
    curves = {
        "peano": lambda t: np.array([t, 1.5 * t**2]),
        "dixon_price3": lambda t: np.array([1.0 / 3.0, 2.0 * t**2, t]),
        # Each term of the tail vanishes on x_i = 2 x_{i+1}^2.
        "dixon_price6": lambda t: np.array([1.0 / 3.0, 2**15 * t**16, 2**7 * t**8, 2**3 * t**4, 2 * t**2, t]),
    }
    if point.name in curves:
        return curves[point.name]
    direction = ravel_pytree(point.descent)[0]
    np.testing.assert_allclose(np.linalg.norm(direction), 1.0, rtol=1e-12)
    return lambda t: flat_params(point) + t * np.asarray(direction)


@needs_x64
def test_saddles_that_second_order_does_not_see_are_saddles():
    rng = np.random.default_rng(1)
    saddles = [
        point
        for point in truth_points(("degenerate", "linear_network"))
        if point.label == "saddle" and point.degenerate
    ]
    assert len(saddles) > 12
    for point in saddles:
        here, x = value(point), flat_params(point)
        curve = lower_curve(point)
        # The sixth Dixon-Price coordinate moves the second by 2^15 t^16: not too near.
        for t in (0.5, 0.4) if point.name == "dixon_price6" else (0.2, 0.1, 0.05):
            assert value(point, curve(t)) < here, point
        higher = [value(point, x + 0.05 * rng.standard_normal(x.size)) for _ in range(20)]
        assert max(higher) > here, point


@needs_x64
@pytest.mark.parametrize(
    ("function", "euler"),
    [
        ("himmelblau", 1),
        ("six_hump_camel", 1),
        ("aluffi_pentini", 1),
        ("cbm", 1),
        ("dixon_price2", 1),
        ("styblinski_tang2", 1),
        ("two_minima_no_saddle", 2),
    ],
)
def test_complete_lists_satisfy_morse_theory(function, euler):
    """A coercive function has Σ (−1)^index = 1; the last one is not coercive."""
    points = closed_form_points(function)
    assert sum((-1) ** point.index for point in points) == euler


@needs_x64
def test_published_values():
    """Values of the literature (Müller & Brown 1979; Himmelblau 1972; Branin 1972)."""
    found = {
        name: sorted(value(p) for p in closed_form_points(name))
        for name in ("muller_brown", "himmelblau", "branin")
    }
    expected = [-146.6995, -108.1667, -80.76782, -72.24894, -40.66484]
    np.testing.assert_allclose(found["muller_brown"], expected, atol=1e-4)
    np.testing.assert_allclose(found["himmelblau"][:4], 0.0, atol=1e-20)
    np.testing.assert_allclose(found["branin"][:3], 0.397887, atol=1e-6)


# Widths, then (−, 0, +) for the fitted directions none, 1, 2, 3, 12, 13, 23, 123; s = (3, 2, 1).
LINEAR_NETWORKS = {
    (4, 2, 3): "6,2,6 2,4,8 3,4,7 4,4,6 0,4,10 1,4,9 2,4,8",
    (3, 3, 3): "9,0,9 4,5,9 5,5,8 6,5,7 1,8,9 2,8,8 3,8,7 0,9,9",
    (5, 4, 3): "12,8,12 6,13,13 7,13,12 8,13,11 2,16,14 3,16,13 4,16,12 0,17,15",
}


@needs_x64
@pytest.mark.parametrize("widths", LINEAR_NETWORKS)
def test_two_layer_linear_networks_have_the_tabulated_inertia(widths):
    subsets = [s for r in range(4) for s in itertools.combinations((1, 2, 3), r)]
    for subset, counts in zip(subsets, LINEAR_NETWORKS[widths].split(), strict=False):
        point = problems.deep_linear_point(widths, subset, (3.0, 2.0, 1.0))
        expected = tuple(map(int, counts.split(",")))
        assert inertia(np.linalg.eigvalsh(dense(point)[2])) == expected
        assert (point.index, point.num_zero) == expected[:2]


@needs_x64
def test_linear_networks_leave_the_unfitted_singular_values():
    """Loss = ½(‖Y‖² − Σ_{i∈S} sᵢ²), and the data have the singular values that were asked for."""
    s = np.array([3.0, 2.0, 1.0])
    for point in linear_network_points():
        if point.data[0].shape[1] < 3 or point.data[1].shape[1] < 3:
            continue
        x, y = (part.T / np.sqrt(len(part)) for part in point.data)
        values, vectors = np.linalg.eigh(x @ x.T)
        whitener = vectors @ np.diag(values**-0.5) @ vectors.T
        found = np.linalg.svd(y @ x.T @ whitener, compute_uv=False)[:3]
        np.testing.assert_allclose(found, s, rtol=1e-12)
        assert x.shape[1] > x.shape[0]
        fitted = point.name.split("_fit_")[1].split("_")[0]
        chosen = [] if fitted == "none" else [int(c) - 1 for c in fitted]
        expected = 0.5 * (np.sum(y**2) - np.sum(s[chosen] ** 2))
        np.testing.assert_allclose(value(point), expected, rtol=1e-12)


@needs_x64
def test_hidden_rotations_and_seeds_change_no_truth():
    for seed in (1, 2):
        turned = problems.deep_linear_point((3, 3, 3), (1, 3), seed=seed)
        plain = problems.deep_linear_point((3, 3, 3), (1, 3), seed=seed, rotate_hidden=False)
        spectra = [np.linalg.eigvalsh(dense(point)[2]) for point in (turned, plain)]
        np.testing.assert_allclose(spectra[0], spectra[1], atol=1e-12 * spectra[0].max())
        assert not np.allclose(turned.params[0], plain.params[0])


def test_deep_linear_networks_cover_every_branch():
    points = linear_network_points()
    deep = Counter((len(p.params), p.label, p.degenerate) for p in points if len(p.params) > 2)
    for depth in (3, 4):
        for branch in (("minimum", True), ("saddle", True), ("saddle", False)):
            assert deep[(depth, *branch)] > 0
    assert sum(len(p.params) == 2 for p in points) == 23


@pytest.mark.parametrize(
    ("widths", "subset", "options", "message"),
    [
        ((3, 3), (), {}, "three positive widths"),
        ((3, 0, 3), (), {}, "three positive widths"),
        ((3, 3, 3), (4,), {}, "different directions"),
        ((3, 3, 3), (1, 1), {}, "different directions"),
        ((4, 2, 3), (1, 2, 3), {}, "at most 2"),
        ((3, 3, 3), (1,), {"singular_values": (1.0, 2.0)}, "strictly decreasing"),
        ((3, 3, 3), (1,), {"singular_values": ()}, "strictly decreasing"),
        ((3, 3, 3), (1,), {"carried": {1: (1,)}}, "at least two"),
        ((3, 3, 3, 3), (1,), {"carried": {1: (1, 3)}}, "at least two"),
        ((3, 3, 3, 3), (1,), {"carried": {0: (1,)}}, "no free hidden coordinate 0"),
        ((3, 3, 3, 3), (1,), {"carried": {3: (1,)}}, "no free hidden coordinate 3"),
        ((3, 3, 3, 3), (1,), {"carried": {1: (7,)}}, "layer 7"),
        ((2, 4, 4, 3), (1,), {"carried": {2: (1,)}}, "no unused singular direction"),
    ],
)
def test_impossible_linear_networks_are_refused(widths, subset, options, message):
    with pytest.raises(ValueError, match=message):
        problems.deep_linear_point(widths, subset, **options)


@needs_x64
def test_polynomials_have_the_derivatives_written_out_by_hand():
    rng = np.random.default_rng(2)
    for seed in range(4):
        point = problems.random_polynomial(4, seed=seed)
        for x in (point.params, point.params + rng.standard_normal(4)):
            _, gradient, hessian = dense(point, at=x)
            by_hand = problems.ridge_hessian(x, point.data)
            np.testing.assert_allclose(hessian, by_hand, atol=1e-11 * np.abs(by_hand).max())
            expected = problems.ridge_gradient(x, point.data)
            np.testing.assert_allclose(gradient, expected, atol=1e-11 * np.abs(by_hand).max())


def test_quadratics_have_the_spectrum_that_was_asked_for():
    for spectrum, label, degenerate in (
        ([-1.0, 2.0, 0.0], "saddle", False),
        ([1.0, 2.0, 0.0], "minimum", True),
        ([-1.0, -2.0], "maximum", False),
        ([0.0, 0.0], "degenerate", True),
    ):
        point = problems.quadratic(spectrum, center=np.ones(len(spectrum)))
        found = np.linalg.eigvalsh(problems.ridge_hessian(point.params, point.data))
        np.testing.assert_allclose(found, np.sort(spectrum), atol=1e-14)
        assert (point.label, point.degenerate) == (label, degenerate)
    assert problems.quadratic([-1.0, 0.0], quartic=1.0).label == "saddle"
    assert problems.quadratic([0.0, 0.0], quartic=1.0).label == "minimum"
    for wrong in ([], [[1.0]], [np.nan]):
        with pytest.raises(ValueError, match="eigenvalues"):
            problems.quadratic(wrong)
    with pytest.raises(ValueError, match="quartic"):
        problems.quadratic([1.0], quartic=-1.0)
    with pytest.raises(ValueError, match="index"):
        problems.random_polynomial(3, index=4)
    with pytest.raises(ValueError, match="num_terms"):
        problems.random_polynomial(3, num_terms=5)


def test_axis_aligned_saddles_point_every_way():
    points = problems.axis_aligned_saddles()
    assert len(points) == 300
    downhill = set()
    for point in points:
        bend = problems.ridge_hessian(point.params, point.data)
        assert np.array_equal(bend, np.diag(np.diag(bend)))
        downhill.add((point.size, int(np.argmin(np.diag(bend)))))
    assert {n for n, _ in downhill} == {2, 3, 5, 8, 13, 21}
    assert len(downhill) > 45  # of 52 axes


@needs_x64
def test_styblinski_tang_has_every_index():
    points = styblinski_tang_points(4)
    assert [point.index for point in points] == [0, 1, 2, 3, 4]
    lowest = styblinski_tang_points(4, indices=[0], seed=3)[0]
    assert set(np.sign(lowest.params)) <= {-1.0, 1.0}
    with pytest.raises(ValueError, match="indices"):
        styblinski_tang_points(2, indices=[3])


def test_clusters_are_the_known_ones():
    energies = {
        (5, "minimum"): [-9.103852],
        (5, "saddle"): [-8.480620, -8.197888],
        (6, "minimum"): [-12.712062, -12.302928],
        (6, "saddle"): [-12.079031, -11.630307, -11.334033],
        (7, "minimum"): [-16.505384, -15.935043, -15.593211, -15.533060],
    }
    points = cluster_points()
    assert len([p for p in points if p.size == 21 and p.index == 1]) == 12
    assert len(points) == 24
    for (atoms, label), expected in energies.items():
        found = []
        for point in cluster_points(atoms):
            if point.label == label:
                pairs = itertools.combinations(point.params, 2)  # the definition, in plain Python
                r = np.array([np.linalg.norm(a - b) for a, b in pairs])
                found.append(np.sum(4.0 * (r**-12 - r**-6)))
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_lecture_s_saddle_and_the_zero_network():
    saddle = problems.lecture_points()[0]
    down = {"w1": np.array(0.5), "w2": np.array(0.5)}
    assert float(saddle.loss(down)) < float(saddle.loss(saddle.params)) == 1.0
    zero = problems.zero_mlp_point()
    assert (zero.size, zero.index, zero.num_zero) == (32, 8, 16)
    x, y = zero.data
    np.testing.assert_allclose(np.linalg.norm(2.0 * x.T @ y / len(x)), 1.418, rtol=1e-12)


@needs_x64
def test_the_zero_network_repeats_each_end_eight_times():
    values = np.linalg.eigvalsh(dense(problems.zero_mlp_point())[2])
    expected = np.repeat([-1.418, 0.0, 1.418], [8, 16, 8])
    np.testing.assert_allclose(values, expected, atol=1e-14 * 10)


def one_of_each_loss():
    points = truth_points() + styblinski_tang_points(3)
    return {point.loss: point for point in reversed(points)}.values()


@pytest.mark.parametrize("point", one_of_each_loss(), ids=lambda point: point.name)
def test_losses_keep_float32(point):
    """Under strict promotion, a loss of float32 arguments is float32, and finite."""
    small = point.astype(np.float32)
    there, slope = jax.jit(jax.value_and_grad(small.loss))(small.params, *small.batches[0])
    assert there.dtype == np.float32
    assert there.shape == ()
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))
    expected = [leaf.dtype for leaf in jax.tree.leaves(small.params)]
    assert [leaf.dtype for leaf in jax.tree.leaves(slope)] == expected
    assert point.fixed_dtype or set(expected) == {np.dtype(np.float32)}


def test_truth_points_by_kind():
    everything = truth_points()
    assert {p.kind for p in everything} == set(TRUTH_KINDS) - {"plateau"}
    both = truth_points(["lecture", "trap"])
    assert Counter(p.kind for p in both) == {"lecture": 2, "trap": 6}
    with pytest.raises(ValueError, match="unknown kinds"):
        truth_points("nonsense")
    with pytest.raises(ValueError, match="no plane function"):
        closed_form_points("nonsense")


def test_known_points_print_no_arrays():
    point = problems.deep_linear_point((3, 3, 3, 3), (1,))
    assert repr(point) == (
        "KnownPoint(linear_network/linear_3-3-3-3_fit_1: saddle, index 0, "
        "second order cannot decide, 27 parameters)"
    )
    assert point.accepted == {"saddle", "degenerate"}
    assert not point.strict
    assert truth_points("lecture")[0].accepted == {"saddle"}


def test_mlp_with_biases_matches_numpy():
    params = problems.mlp_init((5, 4, 3), seed=3)
    x = np.random.default_rng(4).standard_normal((7, 5))
    labels = np.arange(7) % 3
    hidden = np.tanh(x @ params[0]["weight"] + params[0]["bias"])
    logits = hidden @ params[1]["weight"] + params[1]["bias"]
    log_p = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    cross_entropy = -np.mean(log_p[np.arange(7), labels])
    squared = np.mean(np.sum((logits - np.eye(3)[labels]) ** 2, axis=1))
    loss = problems.mlp_loss("tanh", "cross_entropy")
    assert problems.mlp_loss("tanh", "cross_entropy") is loss
    params, x, hot = jax.tree.map(jax.numpy.asarray, (params, x, np.eye(3)[labels]))
    whole = labels.astype(np.int32)
    np.testing.assert_allclose(loss(params, (x, jax.numpy.asarray(whole))), cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(loss(params, (x, hot)), cross_entropy, rtol=1e-5)
    np.testing.assert_allclose(
        problems.mlp_loss("tanh", "squared_error")(params, (x, hot)), squared, rtol=1e-5
    )
    with pytest.raises(ValueError, match="expected an activation"):
        problems.mlp_loss("nonsense")


def test_digits_name_the_extra_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"hessian_probe\[demo\]"):
        problems.digits()


@needs_x64
def test_digits_mlp_85k_is_the_benchmark():
    pytest.importorskip("sklearn")
    point = problems.digits_mlp_85k()
    assert point.size == 85_002
    loss, gradient = jax.jit(jax.value_and_grad(point.loss))(*point.args)
    np.testing.assert_allclose(loss, 0.114163508, atol=1e-9)
    norm = np.sqrt(sum(np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(gradient)))
    np.testing.assert_allclose(norm, 0.0554938, atol=1e-7)


def newton_step(values, vectors, gradient):
    """Step to the local model's critical point in the curved directions; flat share of ‖g‖²."""
    parts = vectors.T @ gradient
    curved = np.abs(values) > 1e-3 * np.abs(values).max()
    step = -vectors[:, curved] @ (parts[curved] / values[curved])
    return step, np.sum(parts[~curved] ** 2) / np.sum(parts**2)


def check_state(point):
    """Measure what tells the states apart: the loss change to the critical point, and flatness."""
    here, gradient, hessian = dense(point)
    values, vectors = np.linalg.eigh(hessian)
    step, flat_share = newton_step(values, vectors, gradient)
    x = flat_params(point)
    change = value(point, x + step) - here
    state = point.name.split("_")[1]
    if state == "late":
        assert flat_share > 0.5
        return
    assert flat_share < 0.05
    lengths = np.concatenate([-np.geomspace(0.01, 10.0, 25), np.geomspace(0.01, 10.0, 25)])
    gain = here - min(value(point, x + t * vectors[:, 0]) for t in lengths)
    if state == "plateau":
        assert abs(change) < 4e-3 * gain
        _, remaining, hessian = dense(point, at=x + step)  # there, too, both signs
        ends = np.linalg.eigvalsh(hessian)[[0, -1]]
        assert -ends[0] > 0.1 * np.abs(ends).max()
        assert ends[1] > 0.1 * np.abs(ends).max()
        assert np.linalg.norm(remaining) < 0.5 * np.linalg.norm(gradient)
    else:
        assert abs(change) > 0.3 * gain


@needs_x64
def test_a_plateau_is_near_a_saddle():
    pytest.importorskip("sklearn")
    check_state(plateau_points(["tanh"], ["plateau"])[0])
    with pytest.raises(ValueError, match="unknown"):
        plateau_points(["nonsense"])


@needs_x64
@pytest.mark.slow
def test_every_state_of_every_network():
    pytest.importorskip("sklearn")
    points = truth_points("plateau")
    assert len(points) == 16
    for point in points:
        check_state(point)
