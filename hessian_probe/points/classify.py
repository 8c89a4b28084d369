"""`classify`: checks options, calls measurements, verdict and reviews, makes a `CriticalPoint` of them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import (
    PyTree,
    add_scaled,
    as_basis,
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
from hessian_probe.points.extremes import Eigenpair
from hessian_probe.points.measurements import Measurements, measure
from hessian_probe.points.null_space import left_out
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.reviews import reviewed
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.settings import Settings
from hessian_probe.points.thresholds import DENSE_SIZE, MAX_HVPS
from hessian_probe.points.verdict import Verdict, interrupted, judge
from hessian_probe.spectrum.counting import IndexCount, IndexCounter
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.result import EigenResult, IndexEstimate, multiplicities

NOT_COUNTED = IndexCount(0, None, ())


def classify(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    resolution: float | None = None,
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
    counts as zero; curvature beyond it is confirmed on the loss itself.  Where these exact statements give
    no label, it is one at a resolution, the smallest change of the loss that counts: `point.gain`
    estimates the largest decrease within `point.reach`, by the trust-region bound
    ½ gᵀ(H + σ)⁻¹g + ½ σ reach², by steps tried on the loss, and by descents from displaced points.

    * saddle: curvature of both signs, each a computed Rayleigh quotient beyond the zero band; or, where
      second order is silent, lower and higher values as near as can be seen.
    * minimum, maximum: no curvature of the wrong sign, certified where the whole spectrum is computed
      (up to 400 variables), beyond that with a probability; or at most the resolution to gain within
      the reach, beside or in a valley, on an orbit or at kinks, neither strict nor certified.
    * degenerate: second order is silent along some direction, and the gain did not decide either.
    * not_critical: the gradient lowers the loss by more than the resolution, or the loss falls along a
      tail without a minimum; curvature is reported all the same.
    * undetermined: the evidence says why, and what would be needed.

    Multiplying the loss by a positive constant, or adding one, changes no label.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        resolution: smallest change of the loss that counts, in units of the loss; None means 1e-5 of the
            smallest of three scales: the change that the curvature makes over the reach, and how much the
            loss differs at parameters of zero and at shuffled ones.  Never less than the rounding error
            of the loss and, with data in batches, than their noise.
        key: random key; None means `jax.random.key(0)`, so the same call gives the same answer.
        max_hvps: products allowed; None means 400 (800 with `count`), or two for each variable where up
            to 400 of them are multiplied densely.
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
        About a dozen products for a saddle; n for a small minimum; at most `max_hvps`.  What is left to
        gain takes 6 losses where the gradient is zero, else at most 40 products at each of up to two
        points (n at each of up to eight where n ≤ 400), and up to 300 evaluations; a few products and
        20 losses on a steep slope.  With data in
        batches, about five dozen products more and three gradients for the noise of the data.  Where
        second order is silent (and n ≤ 400), 400 to 3,000 gradients: few in one flat dimension.

    Source:
        Test: H.-y. Lee, What to do if my network fails to train (lecture, 2021).  Probability:
        J. Kuczyński and H. Woźniakowski 1992, doi:10.1137/0613066.  Bound: A. R. Conn, N. I. M. Gould and
        P. L. Toint, Trust-Region Methods, 2000, chapters 5 and 7, doi:10.1137/1.9780898719857.

    Example:
        >>> import jax.numpy as jnp
        >>> import hessian_probe as hp
        >>> point = hp.classify(lambda w: w[0] ** 2 - w[1] ** 2, jnp.zeros(2))
        >>> point.label, point.certified, point.index_at_least
        ('saddle', True, 1)
        >>> point.reasons
        ('gain', 'gradient_zero', 'curvature', 'curvature_confirmed', 'curvature_confirmed')

        Beside the valley w₀w₁ = 1 one eigenvalue is negative, but nothing is left to gain:

        >>> point = hp.classify(lambda w: (1 - w[0] * w[1]) ** 2, jnp.array([1.0, 1.001]))
        >>> point.label, point.strict, bool(point.gain <= point.resolution)
        ('minimum', False, True)
    """
    _check(max_hvps, (confidence, negative_tol, rtol, resolution), {"sampled": sampled, "count": count})
    op = hessian(loss, params, data, check=False, trainable=trainable)  # its own measurements are sharper
    if null_space is not None:
        op = RestrictedHessian(op.objective, NullDirections(op.objective, null_space))
    budget = products_allowed(op.size, count=count) if max_hvps is None else max_hvps
    settings = Settings(budget, confidence, negative_tol, rtol, progress, sampled, count, resolution)
    rng = generator(key)
    options: dict[str, Any] = {"key": random_state(rng)} | settings._asdict()
    if isinstance(op, RestrictedHessian):
        options["null_space"] = flatten_rows(op.null_basis).ravel().tolist()
    for spent in ("budget", "progress"):
        del options[spent]
    job = Job("classify", op, options, Saving(save_to, save_every, resume))
    measured = Measurements(op, settings, rng, job, Rounding.unmeasured(op))
    try:
        measured = measure(op, settings, rng, job)
        verdict = reviewed(measured, judge(measured))
    except KeyboardInterrupt:
        if not op.evaluated:
            raise  # nothing is known
        verdict = interrupted(measured.extremes)
    return assemble(measured, verdict)


def products_allowed(size: int, *, count: bool) -> int:
    """Products that `classify` allows where it is not told, for this number of variables."""
    return max(MAX_HVPS * (2 if count else 1), 2 * size if size <= DENSE_SIZE else 0)


def _check(
    max_hvps: int | None, numbers: tuple[float, float, float | None, float | None], flags: dict[str, Any]
) -> None:
    """Refuse options that are of the wrong kind or out of range."""
    confidence, negative_tol, rtol, resolution = numbers
    for name, option in zip(("confidence", "negative_tol", "rtol", "resolution"), numbers, strict=True):
        if isinstance(option, bool) or not isinstance(option, int | float | np.floating | None):
            raise TypeError(f"{name}={option!r}; expected a number")
    if max_hvps is not None and (isinstance(max_hvps, bool) or not isinstance(max_hvps, int | np.integer)):
        raise TypeError(f"max_hvps={max_hvps!r}; expected a whole number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a probability between 0 and 1")
    if not 0 < negative_tol < float("inf"):
        raise ValueError(f"negative_tol={negative_tol}; expected a positive finite number")
    if rtol is not None and not rtol > 0:
        raise ValueError(f"rtol={rtol}; expected None or a positive number")
    if resolution is not None and not 0 < resolution < float("inf"):
        raise ValueError(f"resolution={resolution}; expected None or a positive finite number")
    if max_hvps is not None and max_hvps < 0:
        raise ValueError(f"max_hvps={max_hvps}; expected None, 0 or more")
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{name}={flag!r}; expected True or False")


def assemble(m: Measurements, verdict: Verdict) -> CriticalPoint:
    """Write the measurements and the verdict as a result."""
    extremes, op, located, errors = m.extremes, m.op, verdict.located or m.located, verdict.sampling
    low, high = (None, None) if extremes is None else (extremes.low, extremes.high)
    trusted = bool(m.line_checks.get("low") and m.line_checks["low"].confirmed_by)
    counted = count_negative(m, trusted=trusted)
    near = verdict.label not in ("not_critical", "undetermined")
    evidence = (*verdict.evidence, *_notes(op))
    gain = verdict.gain
    return CriticalPoint(
        label=verdict.label,
        strict=verdict.strict,
        certified=verdict.certified,
        confidence=verdict.confidence,
        loss=op.value,
        grad_norm=float(norm(op.gradient_vector)),
        distance=located.distance if near else math.nan,
        critical_loss=located.critical_loss if near else math.nan,
        grad_norm_error=errors.gradient,
        samples_needed=None if errors.samples is None else errors.samples[1],
        samples_interval=None if errors.samples is None else errors.samples[::2],
        batches_needed=errors.batches,
        lowest=_eigen(m, low, 1, errors.low),
        highest=_eigen(m, high, 0, errors.high),
        index_at_least=counted.at_least,
        index_estimate=counted.estimate,
        multiplicities=counted.multiplicities,
        zero_band=extremes.band if extremes is not None else math.nan,
        radius=min((p.radius for p in m.line_checks.values() if p.confirmed_by), default=math.nan),
        escape_direction=_escape_direction(m, verdict, low) if trusted else _straight_descent(m, verdict),
        descent=_descent(m, verdict),
        evidence=tuple(str(reason) for reason in evidence),
        num_hvps=op.objective.cost.num_hvps,
        num_evaluations=op.objective.cost.num_evaluations,
        size=op.size,
        dtype=op.objective.precision,
        variables=str(op.layout),
        reasons=tuple(reason.code for reason in evidence),
        gain=math.nan if gain is None else gain.value,
        resolution=math.nan if gain is None else gain.resolution,
        reach=math.nan if gain is None else gain.reach,
    )


def _notes(op: HessianOperator) -> tuple[Reason, ...]:
    symmetry = (left_out(op),) if isinstance(op, RestrictedHessian) else ()
    refusals = op.objective.refusals
    raised = (Reason("loss_raised", count=len(refusals), error=refusals[0]),) if refusals else ()
    return symmetry + raised + tuple(Reason("leaf_ignored", name=name) for name in op.objective.ignored)


def _eigen(m: Measurements, end: Eigenpair | None, num_lowest: int, error: float | None) -> EigenResult:
    op, extremes, spent = m.op, m.extremes, m.op.objective.cost.num_hvps
    rtol = 1e-3 if m.settings.rtol is None else m.settings.rtol
    if end is None or extremes is None:
        status = "skipped" if extremes is None else extremes.status
        return empty_result(op, spent, "lanczos", rtol, status)
    good = end.residual <= rtol * extremes.top
    early = "ended when the label was settled; rtol=… asks for more accuracy"
    return EigenResult(
        eigenvalues=np.array([end.value]),
        eigenvectors=tangent(op.layout, as_basis(end.vector), op.objective.non_variables, 1),
        residual_norms=np.array([end.residual]),
        converged=np.array([good]),
        num_lowest=num_lowest,
        num_hvps=spent,
        status="converged" if good else ("settled" if extremes.settled else extremes.status),
        method="lanczos" if extremes.spectrum is None else "dense",
        norm=extremes.top,
        rtol=rtol,
        size=op.size,
        variables=str(op.layout),
        evidence=() if good else (early,),
        standard_errors=None if error is None else np.array([error]),
    )


def _escape_direction(m: Measurements, verdict: Verdict, low: Eigenpair | None) -> PyTree | None:
    if low is None or m.extremes is None or low.value >= -m.extremes.band:
        return _straight_descent(m, verdict)
    slope = float(dot(m.op.gradient_vector, low.vector))
    sign = -float(np.sign(slope)) or m.line_checks["low"].downhill
    if not sign:  # without a slope a convention: the sign of the largest entry
        entries = flatten(low.vector)
        sign = float(np.sign(entries[np.argmax(np.abs(entries))]))
    return tangent(m.op.layout, scale(sign, low.vector), m.op.objective.non_variables)


def _descent(m: Measurements, verdict: Verdict) -> PyTree | None:
    """Displacement from the parameters to the lower loss that higher order showed."""
    if verdict.lower is None:
        return None
    move, there = verdict.lower.move, m.located.operator
    if there is not None and verdict.judged is not None:
        move = add_scaled(add_scaled(move, 1.0, there.x_vector), -1.0, m.op.x_vector)
    return tangent(m.op.layout, move, m.op.objective.non_variables)


def _straight_descent(m: Measurements, verdict: Verdict) -> PyTree | None:
    if verdict.lower is None or not verdict.lower.straight:
        return None
    unit = scale(1.0 / float(norm(verdict.lower.move)), verdict.lower.move)
    return tangent(m.op.layout, unit, m.op.objective.non_variables)


def count_negative(m: Measurements, *, trusted: bool) -> IndexCount:
    """Count the eigenvalues below the zero band; none where the loss itself does not show any (`trusted`)."""
    extremes, settings = m.extremes, m.settings
    if extremes is None or extremes.low is None or (extremes.negatives and not trusted):
        return NOT_COUNTED
    if extremes.spectrum is not None:
        (values, _), band = extremes.spectrum, extremes.band
        count = int(np.sum(values < -band))
        # Copies of an eigenvalue differ by rounding, and that lies within the zero band.
        groups = multiplicities(values, np.full(len(values), 0.5 * band), True)
        zeroed = (group._replace(value=0.0) if abs(group.value) <= band else group for group in groups)
        found = tuple(group for group in zeroed if group.copies > 1)
        return IndexCount(count, IndexEstimate(count, count, count, -band, 1.0, "exact", 0), found)
    if not settings.counting or extremes.status not in ("converged", "max_hvps"):
        return IndexCount(extremes.negatives, None, ())
    allowed = settings.negative_tol * extremes.top
    counted = IndexCounter(m.op, extremes.band, allowed, settings.confidence, m.left, m.rng).run()
    found = tuple(group for group in counted.multiplicities if group.copies > 1)
    return IndexCount(max(counted.at_least, extremes.negatives), counted.estimate, found)
