"""Measures of sharpness: those that re-scaling of layers changes, and those that it leaves unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    PyTree,
    Vector,
    add_scaled,
    cast,
    flatten,
    from_tangent,
    generator,
    norm,
    random_normal,
    scale,
    unflatten_rows,
)
from hessian_probe.flatness.result import Sharpness, SharpnessMeasure
from hessian_probe.flatness.thresholds import ASCENT_STEPS, ASCENT_TOLERANCE, EXACT_SIZE, RANDOM_STARTS
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.preconditioned import PreconditionedOperator
from hessian_probe.points.preconditions import derivative_fault
from hessian_probe.spectrum.eigsh import eigsh
from hessian_probe.spectrum.trace import trace

KESKAR = "Keskar et al. 2017, eq. 4, arXiv:1609.04836"
LI = "Li et al. 2018, section 4, arXiv:1712.09913"
KWON = "Kwon et al. 2021, arXiv:2102.11600"
NO_CURVATURE = "no curvature was found: a Hessian-vector product is not finite at these parameters"
KINKS = (
    "the loss has kinks ({}): what they add to the sharpness shows in keskar and adaptive_maximum alone, "
    "not in second derivatives"
)


def sharpness(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    num_probes: int = 30,
    keskar_box: float = 1e-3,
    adaptive_radius: float = 0.5,
    filter_axis: int = -1,
    rtol: float = 1e-3,
    max_hvps: int | None = None,
    key: jax.Array | None = None,
) -> Sharpness:
    """Measure how sharp a point is by seven measures, each with its error and its invariance.

    A network with ReLU units computes the same function when the weights into a layer are multiplied by α
    and those out of it by 1/α.  A measure that this changes cannot by itself predict how well the network
    generalises (Dinh et al. 2017).  With the Hessian H at the parameters x, w = |x| and T = diag(w):

    - `lambda_max`: λ_max(H), in loss / params²; `trace`: tr H, the same unit.
    - `keskar`: 100 (max f(x + z) − f(x)) / (1 + f(x)) over the box |zᵢ| ≤ ε(|xᵢ| + 1).
    - `filter_normalised`: mean second derivative along random directions whose part in each filter has
      the length of that filter, Σ_f (‖x_f‖²/n_f) tr H_ff, in loss.  Leaves with fewer than two axes
      (biases) do not move, as in the paper; where no leaf has two, each leaf is one filter.
    - `adaptive_lambda_max`: λ_max(THT), `adaptive_trace`: tr THT, in loss: the largest and the summed
      second derivative when each variable moves in proportion to its size.
    - `adaptive_maximum`: max f(x + z) − f(x) over Σ(zᵢ/xᵢ)² ≤ ρ², in loss.

    The last three do not change when layers, or single units, are re-scaled; `filter_normalised` does
    not when whole layers are.  None of them is a bound on the error on new data.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        num_probes: products for each trace.
        keskar_box: ε of Keskar's box.
        adaptive_radius: ρ of the adaptive ellipsoid.
        filter_axis: axis of a weight that counts its filters: the last one where weights are (inputs,
            outputs) as in Flax, Haiku and Keras; 0 in Equinox.
        rtol: accuracy of each largest eigenvalue, relative to the largest in magnitude.
        max_hvps: products allowed for each of the two; None means that of `hp.eigsh`.
        key: random key; None means `jax.random.key(0)`.

    Returns:
        Sharpness.

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `params` has no variable; data is empty; an option is out of its range.

    Cost:
        3 · num_probes products for the traces, 10 to 50 for each of two largest eigenvalues, up to 100
        gradients for the two maxima; memory of num_probes / 3 vectors.  Up to 128 variables, n products
        and the dense Hessian, whose eigenvalues and traces are exact to rounding.

    Source:
        L. Dinh et al., Sharp minima can generalize for deep nets, 2017, arXiv:1703.04933 (re-scaling);
        N. Keskar et al. 2017, arXiv:1609.04836, eq. 4, ε = 1e-3; H. Li et al. 2018, arXiv:1712.09913,
        section 4; J. Kwon et al. 2021, arXiv:2102.11600 (without their η, which breaks invariance;
        ρ = 0.5 lies among theirs); M. Andriushchenko et al. 2023, arXiv:2302.07011, section 2
        (second order of the average and the worst case).

    Examples:
        >>> import jax.numpy as jnp
        >>> found = sharpness(lambda x: 5.0 * x[0] ** 2 + x[1] ** 2, jnp.ones(2))
        >>> round(found["lambda_max"].value, 3), round(found["trace"].value, 3)
        (10.0, 12.0)
    """
    _check_options(num_probes, keskar_box, adaptive_radius)
    op = hessian(loss, params, data, trainable=trainable)
    dense = op.dense() if op.size <= EXACT_SIZE else None
    scaled = _ScaledHessian(op, dense, num_probes, rtol, max_hvps, key, generator(key))
    x = cast(op.x, op.layout.work_dtypes)
    sizes = tuple(jnp.abs(leaf) for leaf in x)
    ones = tuple(jnp.ones_like(leaf) for leaf in x)
    box = Region(tuple(keskar_box * (leaf + 1) for leaf in sizes), box=True)
    ball = Region(scale(adaptive_radius, sizes), box=False)
    plain, adaptive = scaled.largest(ones), scaled.largest(sizes)
    measures = (
        plain.measure("lambda_max", "none", "λ_max(H)", "loss / params²", "largest eigenvalue"),
        scaled.trace(ones).measure("trace", "none", "tr H", "loss / params²", "sum of eigenvalues"),
        scaled.maximum(box, plain.vector, 100 / (1 + op.value) if op.value > -1 else math.nan).measure(
            "keskar", "none", f"100 (max f − f)/(1 + f), |zᵢ| ≤ {keskar_box:g}(|xᵢ| + 1)", "percent", KESKAR
        ),
        scaled.trace(_filters(x, filter_axis)).measure(
            "filter_normalised", "layers", "Σ_f ‖x_f‖²/n_f · tr H_ff", "loss", LI
        ),
        adaptive.measure("adaptive_lambda_max", "units", "λ_max(THT), T = diag |x|", "loss", KWON),
        scaled.trace(sizes).measure("adaptive_trace", "units", "tr THT, T = diag |x|", "loss", KWON),
        scaled.maximum(ball, adaptive.vector, 1.0).measure(
            "adaptive_maximum", "units", f"max f − f, ‖z/x‖ ≤ {adaptive_radius:g}", "loss", KWON
        ),
    )
    kinks = op.objective.facts.kinks
    evidence = (KINKS.format(", ".join(kinks)),) if kinks else ()
    if not np.isfinite(measures[0].value):
        evidence = (NO_CURVATURE, *evidence)
    fault = derivative_fault(op)
    if fault is not None:
        evidence = (str(fault), *evidence)
    return Sharpness(
        measures=measures,
        loss=op.value,
        grad_norm=float(norm(op.gradient_vector)),
        size=op.size,
        variables=str(op.layout),
        evidence=evidence,
        num_hvps=op.num_hvps,
        num_evaluations=op.objective.cost.num_evaluations,
    )


def _check_options(num_probes: int, keskar_box: float, adaptive_radius: float) -> None:
    if num_probes < 6:
        raise ValueError(
            f"num_probes is {num_probes}; a standard error needs at least 6 (a third are samples)"
        )
    for name, given in (("keskar_box", keskar_box), ("adaptive_radius", adaptive_radius)):
        if not 0 < given < np.inf:
            raise ValueError(f"{name} is {given}; it must be positive and finite")


class _Estimate(NamedTuple):
    """A number with its error and its cost, and for an eigenvalue its vector."""

    value: float
    error: float
    kind: str
    num_hvps: int
    num_evaluations: int
    vector: Vector | None = None

    def measure(self, name: str, invariance: str, formula: str, unit: str, source: str) -> SharpnessMeasure:
        spent = self.num_hvps, self.num_evaluations
        return SharpnessMeasure(
            name, self.value, self.error, self.kind, invariance, formula, unit, source, *spent
        )


class _ScaledHessian(NamedTuple):
    """The Hessian scaled to DHD, D = diag(widths): estimates by products, or exact ones by the matrix."""

    op: HessianOperator
    dense: np.ndarray | None
    num_probes: int
    rtol: float
    max_hvps: int | None
    key: jax.Array | None
    rng: np.random.Generator

    def largest(self, widths: Vector) -> _Estimate:
        """λ_max(DHD) with its vector."""
        if self.dense is not None:
            matrix, error = self._scaled(widths)
            if not np.all(np.isfinite(matrix)):
                return _Estimate(math.nan, math.nan, "rounding", self.op.size, 0)
            values, vectors = np.linalg.eigh(matrix)
            top = tuple(leaf[0] for leaf in unflatten_rows(self.op.layout, vectors[None, :, -1]))
            return _Estimate(float(values[-1]), error, "rounding", self.op.size, 0, top)
        scaled = self._operator(widths)
        found = eigsh(scaled, lowest=0, highest=1, rtol=self.rtol, max_hvps=self.max_hvps, key=self.key)
        if not len(found.eigenvalues):
            return _Estimate(math.nan, math.nan, "residual", found.num_hvps, 0)
        top = from_tangent(self.op.layout, found.vector(0), "an eigenvector")
        value, error = float(found.eigenvalues[0]), float(found.residual_norms[0])
        return _Estimate(value, error, "residual", found.num_hvps, 0, top)

    def trace(self, widths: Vector) -> _Estimate:
        """Trace of DHD."""
        if self.dense is not None:
            matrix, error = self._scaled(widths)
            return _Estimate(float(np.trace(matrix)), error, "rounding", self.op.size, 0)
        found = trace(self._operator(widths), self.num_probes, self.rng)
        return _Estimate(found.value, found.error, "standard_error", found.num_hvps, 0)

    def maximum(self, region: Region, top: Vector | None, factor: float) -> _Estimate:
        """Largest rise of the loss in a region, times a factor."""
        op = self.op
        gradient = tuple(g * w for g, w in zip(op.gradient_vector, region.widths, strict=True))
        directions = [gradient]
        if top is not None:
            directions += [top, scale(-1.0, top)]
        directions += [random_normal(self.rng, op.layout, op.active) for _ in range(RANDOM_STARTS)]
        before = op.objective.cost.num_evaluations
        rise, spread = worst_case_ascent(op.objective, op.x, op.value, region, directions)
        spent = op.objective.cost.num_evaluations - before
        # Keskar's formula has no meaning for a loss at or below −1.
        factor = factor if factor > 0 else math.nan
        return _Estimate(factor * rise, factor * spread, "spread_of_ascents", 0, spent)

    def _operator(self, widths: Vector) -> PreconditionedOperator:
        return PreconditionedOperator(self.op, tuple(leaf * leaf for leaf in widths))

    def _scaled(self, widths: Vector) -> tuple[np.ndarray, float]:
        """The whole of DHD, and its rounding."""
        assert self.dense is not None
        flat = flatten(widths)
        matrix = flat[:, None] * self.dense * flat
        return matrix, self.op.eps * float(np.linalg.norm(matrix))


def _filters(x: Vector, axis: int) -> Vector:
    """For each variable the root mean square of its filter; 0 in leaves that do not move."""
    deep = any(leaf.ndim >= 2 for leaf in x)
    return tuple(_filter_widths(leaf, axis, deep) for leaf in x)


def _filter_widths(leaf: jax.Array, axis: int, deep: bool) -> jax.Array:
    if deep and leaf.ndim < 2:
        return jnp.zeros_like(leaf)
    if leaf.size == 0:
        return leaf
    if deep and not -leaf.ndim <= axis < leaf.ndim:
        raise ValueError(f"filter_axis is {axis}; a weight has shape {leaf.shape}")
    others = tuple(i for i in range(leaf.ndim) if not deep or i != axis % leaf.ndim)
    return jnp.broadcast_to(jnp.sqrt(jnp.mean(jnp.square(leaf), axis=others, keepdims=True)), leaf.shape)


class Region(NamedTuple):
    """Moves z with |zᵢ| ≤ wᵢ (a box), or with Σ(zᵢ/wᵢ)² ≤ 1 (an ellipsoid); zᵢ = 0 where wᵢ = 0.

    Attributes:
        widths: w ≥ 0, a vector.
        box: whether it is a box.
    """

    widths: Vector
    box: bool

    def along(self, direction: Vector) -> Vector:
        """The move whose direction, in units of the widths, is this one (for a box, its signs)."""
        if self.box:
            unit = tuple(jnp.sign(leaf) for leaf in direction)
        else:
            length = float(norm(direction))
            unit = scale(1 / length if length > 0 else 0.0, direction)
        return _times(self.widths, unit)

    def farthest(self, gradient: Vector) -> Vector:
        """The move of the region that maximises gradient · z."""
        return self.along(_times(self.widths, gradient))


def worst_case_ascent(
    objective: Objective, x: Vector, value: float, region: Region, directions: Iterable[Vector]
) -> tuple[float, float]:
    """Climb from several moves and keep the highest loss: the largest in the region, from below.

    Each step goes to the point of the region that is farthest along the gradient.  A convex loss rises at
    every such step (it lies above its tangent planes); on a quadratic and an ellipsoid this is the power
    method.  Any point visited is a lower bound; the highest one counts.

    The ascents start in given directions, in units of the region's widths, from a centre with loss `value`.

    Returns:
        The highest loss seen in the region, less that at its centre, and how far below it the second-best
        ascent ended; NaN where a loss in the region is not finite.
    """
    centre = cast(x, objective.layout.work_dtypes)
    ends = []
    for direction in directions:
        move, best = region.along(direction), 0.0
        for step in range(ASCENT_STEPS):
            there, gradient = objective.value_and_gradient(add_scaled(centre, 1.0, move))
            rise = there - value
            if not np.isfinite(rise):
                return math.nan, math.nan
            gained, best = rise - best, max(rise, best)
            if step and gained <= ASCENT_TOLERANCE * best:
                break
            move = region.farthest(gradient)
        ends.append(best)
    ends.sort()
    return ends[-1], ends[-1] - ends[-2]


def _times(a: Vector, b: Vector) -> Vector:
    return tuple(x * y.astype(x.dtype) for x, y in zip(a, b, strict=True))
