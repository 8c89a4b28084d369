"""`classify`: its options are checked, the pipeline runs, and what it measured becomes a `CriticalPoint`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import (
    PyTree,
    Vector,
    add_scaled,
    cast,
    dot,
    flatten,
    flatten_rows,
    generator,
    norm,
    scale,
    tangent,
)
from hessian_probe.jobs.checkpoint import Job, Saving
from hessian_probe.jobs.state import random_state
from hessian_probe.operators.hessian import HessianOperator, hessian
from hessian_probe.operators.restricted import NullDirections, RestrictedHessian
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import Eigenpair, ExtremeEigenpairs
from hessian_probe.points.null_space import left_out
from hessian_probe.points.pipeline import Pipeline
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.second_order import Verdict, interrupted
from hessian_probe.points.settings import Settings
from hessian_probe.spectrum.counting import IndexCount, IndexCounter
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.result import EigenResult, IndexEstimate, multiplicities

# Products allowed by default; a certified saddle takes about a dozen.
MAX_HVPS = 400
NOT_COUNTED = IndexCount(0, None, ())


def classify(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    key: jax.Array | None = None,
    max_hvps: int | None = None,
    confidence: float = 0.99,
    negative_tol: float = 1e-2,
    rtol: float | None = None,
    sampled: bool = True,
    count: bool = False,
    null_space: PyTree | None = None,
    progress: Callable[[str], None] | None = None,
    save_to: str | os.PathLike[str] | None = None,
    save_every: float = 30.0,
    resume: bool | str | os.PathLike[str] = True,
) -> CriticalPoint:
    """Say what kind of point the parameters are at or near, how sure that is, and why.

    The gradient shows whether a critical point is near; the signs of the Hessian's extreme
    eigenvalues show which kind it is.  Curvature smaller than the measured rounding of the products
    counts as zero; curvature beyond it is confirmed on the loss itself.

    * saddle: curvature of both signs, each a computed Rayleigh quotient beyond the zero band.
    * minimum, maximum: no curvature of the wrong sign.  Certified where the whole spectrum is computed
      (up to 256 variables); beyond that a probability, stated in the evidence.
    * where second order is silent along some directions, higher order and samples along them decide,
      all other directions at rest; such a label is neither strict nor certified.
    * degenerate: that did not decide either.
    * not_critical: the gradient is too large; curvature is reported all the same.
    * undetermined: the evidence says why, and what would be needed.

    Multiplying the loss by a positive constant, or adding one, changes no label.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its real floating-point leaves are the variables.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        key: random key; None means `jax.random.key(0)`, so the same call gives the same answer.
        max_hvps: products allowed; None means 400 (800 with `count`), or one for each variable where up
            to 256 of them are multiplied densely.
        confidence: probability with which a minimum by Lanczos must hold.
        negative_tol: for that statement, how negative a missed eigenvalue may be, relative to ‖H‖.
        rtol: None stops as soon as the label is settled; a number asks for both ends to residual
            rtol·‖H‖ as well.
        sampled: with data in at least four batches, whether these are a sample of something larger: then
            the label must hold for that, on batches that the directions were not fitted to; False: they
            are all there is.  Held-out batches say nothing of data that the parameters were fitted to.
        count: count the negative eigenvalues beyond what the label needs: exactly where `max_hvps` covers
            one product for each of up to 4,096 variables, else by deflation, or with an interval by
            quadrature.  See `CriticalPoint.index_estimate`.
        progress: called with a line of text as the search goes on.
        null_space: directions along which the loss is known not to change, to be left out: vectors (a
            pytree like params with a leading axis), or functions from params to a pytree like them that
            generate a symmetry (one, or a list).  Second order then decides alone in what is left.
            They are tested, by slope, product and loss; one that is not flat makes the point undetermined.
        save_to: file to which the Krylov search is saved as it goes, when it is interrupted and when it
            ends; a dense spectrum, counting, and what follows the search are computed again.
        save_every: seconds between two saves (rarer where saving would take over 2 % of the time).
        resume: True goes on from `save_to` if that file exists, to the answer that an uninterrupted
            call gives; a path goes on from that file; False starts over and overwrites.

    Returns:
        CriticalPoint.  Ctrl-C makes it "undetermined", with what was measured until then.

    Raises:
        TypeError: `loss` is not callable or gives no real scalar; data can be read only once; null_space is
            neither vectors nor functions.
        ValueError: `params` has no variable, data is empty, or an option is out of range; the file to go
            on from is cut off, damaged, or of another job.
        KeyboardInterrupt: Ctrl-C before anything was measured.

    Cost:
        About a dozen products for a saddle; n for a small minimum; at most `max_hvps`.  With data in
        batches, about two dozen more and two gradients for the noise of the data.  Where
        second order is silent (and n ≤ 256), 500 to 40,000 evaluations beside them: few in one flat
        dimension.

    Source:
        Test: H.-y. Lee, What to do if my network fails to train (lecture, 2021).  Probability:
        J. Kuczyński and H. Woźniakowski 1992, doi:10.1137/0613066.

    Example:
        >>> import jax.numpy as jnp
        >>> import hessian_probe as hp
        >>> point = hp.classify(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2))
        >>> point.label, point.certified, point.index_at_least
        ('saddle', True, 1)
        >>> point.reasons
        ('gradient_zero', 'curvature', 'curvature_confirmed', 'curvature_confirmed')
    """
    _check(max_hvps, confidence, negative_tol, rtol, {"sampled": sampled, "count": count})
    op = hessian(loss, params, data, check=False)  # its own measurements are sharper
    if null_space is not None:
        op = RestrictedHessian(op.objective, NullDirections(op.objective, null_space))
    budget = MAX_HVPS * (2 if count else 1) if max_hvps is None else max_hvps
    settings = Settings(budget, confidence, negative_tol, rtol, progress, sampled, count)
    rng = generator(key)
    options: dict[str, Any] = {"key": random_state(rng)} | settings._asdict()
    if isinstance(op, RestrictedHessian):
        options["null_space"] = flatten_rows(op.null_basis).ravel().tolist()
    for spent in ("budget", "progress"):
        del options[spent]
    job = Job("classify", op, options, Saving(save_to, save_every, resume))
    pipeline = Pipeline(op, rng, settings, job)
    try:
        return assemble(pipeline, pipeline.run())
    except KeyboardInterrupt:
        if not op.evaluated:
            raise  # nothing is known
        return assemble(pipeline, interrupted(pipeline.extremes))


def _check(
    max_hvps: int | None, confidence: float, negative_tol: float, rtol: float | None, flags: dict[str, Any]
) -> None:
    """Refuse options that are of the wrong kind or out of range."""
    for name, option in (("confidence", confidence), ("negative_tol", negative_tol), ("rtol", rtol)):
        if option is not None and not isinstance(option, int | float):
            raise TypeError(f"{name}={option!r}; expected a number")
    if max_hvps is not None and (isinstance(max_hvps, bool) or not isinstance(max_hvps, int | np.integer)):
        raise TypeError(f"max_hvps={max_hvps!r}; expected a whole number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a probability between 0 and 1")
    if not 0 < negative_tol < float("inf"):
        raise ValueError(f"negative_tol={negative_tol}; expected a positive finite number")
    if rtol is not None and not rtol > 0:
        raise ValueError(f"rtol={rtol}; expected None or a positive number")
    if max_hvps is not None and max_hvps < 0:
        raise ValueError(f"max_hvps={max_hvps}; expected None, 0 or more")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r}; expected True or False")


def assemble(pipeline: Pipeline, verdict: Verdict) -> CriticalPoint:
    """Write the measurements and the verdict as a result."""
    extremes, op = pipeline.extremes, pipeline.op
    low, high = (None, None) if extremes is None else (extremes.low, extremes.high)
    trusted = bool(pipeline.line_checks.get("low") and pipeline.line_checks["low"].confirmed_by)
    counted = count_negative(op, extremes, pipeline.settings, pipeline.left, pipeline.rng, trusted=trusted)
    near = verdict.label not in ("not_critical", "undetermined")
    evidence = (*verdict.evidence, *_notes(pipeline))
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
        evidence=tuple(str(reason) for reason in evidence),
        num_hvps=pipeline.spent,
        num_evaluations=op.objective.cost.num_evaluations,
        size=op.size,
        dtype=op.objective.precision,
        reasons=tuple(reason.code for reason in evidence),
    )


def _notes(pipeline: Pipeline) -> tuple[Reason, ...]:
    names = pipeline.op.objective.ignored
    symmetry = (left_out(pipeline.op),) if isinstance(pipeline.op, RestrictedHessian) else ()
    return symmetry + tuple(Reason("leaf_ignored", name=name) for name in names)


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
        evidence=() if good else (early,),
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


def count_negative(
    op: HessianOperator,
    extremes: ExtremeEigenpairs | None,
    settings: Settings,
    budget: int,
    rng: np.random.Generator,
    *,
    trusted: bool,
) -> IndexCount:
    """IndexCount the eigenvalues below the zero band, at the parameters.

    Args:
        op: operator at the parameters.
        extremes: what the search saw there.
        settings: `counting` asks for products beyond what the search spent.
        budget: products left.
        rng: source of random vectors.
        trusted: whether the loss itself shows the negative curvature; else none is counted.

    Returns:
        What is proved, and the estimate of the index if there is one.
    """
    if extremes is None or extremes.low is None or (extremes.negatives and not trusted):
        return NOT_COUNTED
    if extremes.spectrum is not None:
        return _exact(extremes.spectrum[0], extremes.band)
    if not settings.counting or extremes.status not in ("converged", "max_hvps"):
        return IndexCount(extremes.negatives, None, ())
    allowed = settings.negative_tol * extremes.top
    counted = IndexCounter(op, extremes.band, allowed, settings.confidence, budget, rng).run()
    found = tuple(group for group in counted.multiplicities if group.copies > 1)
    return IndexCount(max(counted.at_least, extremes.negatives), counted.estimate, found)


def _exact(values: np.ndarray, band: float) -> IndexCount:
    count = int(np.sum(values < -band))
    # Copies of an eigenvalue differ by rounding, and that lies within the zero band.
    groups = multiplicities(values, np.full(len(values), 0.5 * band), True)
    zeroed = (group._replace(value=0.0) if abs(group.value) <= band else group for group in groups)
    found = tuple(group for group in zeroed if group.copies > 1)
    return IndexCount(count, IndexEstimate(count, count, count, -band, 1.0, "exact", 0), found)
