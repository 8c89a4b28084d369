"""From a probe's measurements to the result that the user gets."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, dot, flatten, norm, scale, tangent
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.extreme_eigenpairs import End
from hessian_probe.points.morse_index import count_negative
from hessian_probe.points.null_space import about
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.second_order import Verdict
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.result import EigenResult

if TYPE_CHECKING:
    from hessian_probe.points.pipeline import Probe


def critical_point(probe: Probe, verdict: Verdict) -> CriticalPoint:
    """Write a probe's measurements and its verdict as a result."""
    ends, op = probe.ends, probe.op
    low, high = (None, None) if ends is None else (ends.low, ends.high)
    trusted = bool(probe.probes.get("low") and probe.probes["low"].confirmed_by)
    counted = count_negative(op, ends, probe.settings, probe.left, probe.rng, trusted=trusted)
    near = verdict.label not in ("not_critical", "undetermined")
    return CriticalPoint(
        label=verdict.label,
        strict=verdict.strict,
        certified=verdict.certified,
        confidence=verdict.confidence,
        loss=op.value,
        grad_norm=float(norm(op.gradient_vector)),
        distance=probe.nearness.distance if near else math.nan,
        critical_loss=probe.nearness.critical_loss if near else math.nan,
        grad_norm_error=probe.sampling.gradient,
        samples_needed=probe.sampling.samples,
        lowest=_eigen(probe, low, 1, probe.sampling.low),
        highest=_eigen(probe, high, 0, probe.sampling.high),
        index_at_least=counted.at_least,
        index_estimate=counted.estimate,
        multiplicities=counted.multiplicities,
        zero_band=ends.band if ends is not None else math.nan,
        radius=min((p.radius for p in probe.probes.values() if p.confirmed_by), default=math.nan),
        escape_direction=_escape_direction(probe, low) if trusted else _straight_descent(probe),
        descent=_descent(probe),
        evidence=(*verdict.evidence, *_notes(probe)),
        num_hvps=probe.spent,
        num_evaluations=op.objective.num_evaluations,
        size=op.size,
        dtype=op.objective.precision,
    )


def _notes(probe: Probe) -> tuple[str, ...]:
    names = probe.op.objective.ignored
    left_out = (about(probe.op),) if isinstance(probe.op, RestrictedHessian) else ()
    return left_out + tuple(f"the loss ignores {name}: it is flat along it" for name in names)


def _eigen(probe: Probe, end: End | None, num_lowest: int, error: float | None) -> EigenResult:
    op, ends = probe.op, probe.ends
    rtol = 1e-3 if probe.settings.rtol is None else probe.settings.rtol
    if end is None or ends is None:
        status = "skipped" if ends is None else ends.status
        return empty_result(op, probe.spent, "lanczos", rtol, status)
    good = end.residual <= rtol * ends.top
    early = "ended when the label was settled; rtol=… asks for more accuracy"
    return EigenResult(
        eigenvalues=np.array([end.value]),
        eigenvectors=tangent(op.layout, tuple(v[None] for v in end.vector), op.objective.non_variables, 1),
        residual_norms=np.array([end.residual]),
        converged=np.array([good]),
        num_lowest=num_lowest,
        num_hvps=probe.spent,
        status="converged" if good else ("settled" if ends.settled else ends.status),
        method="lanczos" if ends.spectrum is None else "dense",
        norm=ends.top,
        rtol=rtol,
        size=op.size,
        message="" if good else early,
        standard_errors=None if error is None else np.array([error]),
    )


def _escape_direction(probe: Probe, low: End | None) -> PyTree | None:
    if low is None or probe.ends is None or low.value >= -probe.ends.band:
        return _straight_descent(probe)
    slope = float(dot(probe.op.gradient_vector, low.vector))
    sign = -float(np.sign(slope)) or probe.probes["low"].downhill or _leading_sign(low.vector)
    return tangent(probe.op.layout, scale(sign, low.vector), probe.op.objective.non_variables)


def _descent(probe: Probe) -> PyTree | None:
    """Displacement from the parameters to the lower loss that higher order showed."""
    if probe.lower is None:
        return None
    move, there = probe.lower.move, probe.nearness.operator
    if there is not None:
        work = probe.op.layout.work_dtypes
        move = add_scaled(add_scaled(move, 1.0, cast(there.x, work)), -1.0, cast(probe.op.x, work))
    return tangent(probe.op.layout, move, probe.op.objective.non_variables)


def _straight_descent(probe: Probe) -> PyTree | None:
    if probe.lower is None or not probe.lower.straight:
        return None
    unit = scale(1.0 / float(norm(probe.lower.move)), probe.lower.move)
    return tangent(probe.op.layout, unit, probe.op.objective.non_variables)


def _leading_sign(vector: Vector) -> float:
    """Sign of the entry of largest magnitude: a convention for directions without a slope."""
    entries = flatten(vector)
    return float(np.sign(entries[np.argmax(np.abs(entries))]))
