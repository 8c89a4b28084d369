"""From a probe's measurements to the result that the user gets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, dot, flatten, norm, scale, tangent
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.extreme_eigenpairs import Eigenpair
from hessian_probe.points.morse_index import count_negative
from hessian_probe.points.null_space import about
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.second_order import Verdict
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.result import EigenResult

if TYPE_CHECKING:
    from hessian_probe.points.pipeline import Pipeline


def critical_point(pipeline: Pipeline, verdict: Verdict) -> CriticalPoint:
    """Write a probe's measurements and its verdict as a result."""
    extremes, op = pipeline.extremes, pipeline.op
    low, high = (None, None) if extremes is None else (extremes.low, extremes.high)
    trusted = bool(pipeline.line_checks.get("low") and pipeline.line_checks["low"].confirmed_by)
    counted = count_negative(op, extremes, pipeline.settings, pipeline.left, pipeline.rng, trusted=trusted)
    near = verdict.label not in ("not_critical", "undetermined")
    return CriticalPoint(
        label=verdict.label,
        strict=verdict.strict,
        certified=verdict.certified,
        confidence=verdict.confidence,
        loss=op.value,
        grad_norm=float(norm(op.gradient_vector)),
        distance=pipeline.located.distance if near else math.nan,
        critical_loss=pipeline.located.critical_loss if near else math.nan,
        grad_norm_error=pipeline.sampling.gradient,
        samples_needed=pipeline.sampling.samples,
        lowest=_eigen(pipeline, low, 1, pipeline.sampling.low),
        highest=_eigen(pipeline, high, 0, pipeline.sampling.high),
        index_at_least=counted.at_least,
        index_estimate=counted.estimate,
        multiplicities=counted.multiplicities,
        zero_band=extremes.band if extremes is not None else math.nan,
        radius=min((p.radius for p in pipeline.line_checks.values() if p.confirmed_by), default=math.nan),
        escape_direction=_escape_direction(pipeline, low) if trusted else _straight_descent(pipeline),
        descent=_descent(pipeline),
        evidence=(*verdict.evidence, *_notes(pipeline)),
        num_hvps=pipeline.spent,
        num_evaluations=op.objective.cost.num_evaluations,
        size=op.size,
        dtype=op.objective.precision,
    )


def _notes(pipeline: Pipeline) -> tuple[str, ...]:
    names = pipeline.op.objective.ignored
    left_out = (about(pipeline.op),) if isinstance(pipeline.op, RestrictedHessian) else ()
    return left_out + tuple(f"the loss ignores {name}: it is flat along it" for name in names)


def _eigen(pipeline: Pipeline, end: Eigenpair | None, num_lowest: int, error: float | None) -> EigenResult:
    op, extremes = pipeline.op, pipeline.extremes
    rtol = 1e-3 if pipeline.settings.rtol is None else pipeline.settings.rtol
    if end is None or extremes is None:
        status = "skipped" if extremes is None else extremes.status
        return empty_result(op, pipeline.spent, "lanczos", rtol, status)
    good = end.residual <= rtol * extremes.top
    early = "ended when the label was settled; rtol=… asks for more accuracy"
    return EigenResult(
        eigenvalues=np.array([end.value]),
        eigenvectors=tangent(op.layout, tuple(v[None] for v in end.vector), op.objective.non_variables, 1),
        residual_norms=np.array([end.residual]),
        converged=np.array([good]),
        num_lowest=num_lowest,
        num_hvps=pipeline.spent,
        status="converged" if good else ("settled" if extremes.settled else extremes.status),
        method="lanczos" if extremes.spectrum is None else "dense",
        norm=extremes.top,
        rtol=rtol,
        size=op.size,
        message="" if good else early,
        standard_errors=None if error is None else np.array([error]),
    )


def _escape_direction(pipeline: Pipeline, low: Eigenpair | None) -> PyTree | None:
    if low is None or pipeline.extremes is None or low.value >= -pipeline.extremes.band:
        return _straight_descent(pipeline)
    slope = float(dot(pipeline.op.gradient_vector, low.vector))
    sign = -float(np.sign(slope)) or pipeline.line_checks["low"].downhill or _leading_sign(low.vector)
    return tangent(pipeline.op.layout, scale(sign, low.vector), pipeline.op.objective.non_variables)


def _descent(pipeline: Pipeline) -> PyTree | None:
    """Displacement from the parameters to the lower loss that higher order showed."""
    if pipeline.lower is None:
        return None
    move, there = pipeline.lower.move, pipeline.located.operator
    if there is not None:
        work = pipeline.op.layout.work_dtypes
        move = add_scaled(add_scaled(move, 1.0, cast(there.x, work)), -1.0, cast(pipeline.op.x, work))
    return tangent(pipeline.op.layout, move, pipeline.op.objective.non_variables)


def _straight_descent(pipeline: Pipeline) -> PyTree | None:
    if pipeline.lower is None or not pipeline.lower.straight:
        return None
    unit = scale(1.0 / float(norm(pipeline.lower.move)), pipeline.lower.move)
    return tangent(pipeline.op.layout, unit, pipeline.op.objective.non_variables)


def _leading_sign(vector: Vector) -> float:
    """Sign of the entry of largest magnitude: a convention for directions without a slope."""
    entries = flatten(vector)
    return float(np.sign(entries[np.argmax(np.abs(entries))]))
