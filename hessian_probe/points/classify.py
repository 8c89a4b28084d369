"""Label the point where training stopped, with the evidence for the label."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, dot, generator, norm, scale, tangent
from hessian_probe.operators.hessian import HessianOperator, flatten_rows, hessian
from hessian_probe.operators.restricted import NullDirections, RestrictedHessian
from hessian_probe.points.causes import no_product, nonfinite, unstable
from hessian_probe.points.counting import count_negative
from hessian_probe.points.ends import End, Ends
from hessian_probe.points.flat.null import about, why_not_flat
from hessian_probe.points.flat.resolve import Lower, resolve
from hessian_probe.points.kinks.second_look import Seen, second_look
from hessian_probe.points.lines import LineProbe, probe_line
from hessian_probe.points.nearness import Nearness, Noise, judge_nearness
from hessian_probe.points.noise import Neighbour, ProductNoise, gradient_tolerance, neighbour, slope_noise
from hessian_probe.points.population import PRODUCTS, Place, Population, Sampling
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.sampling import beyond
from hessian_probe.points.search import SIGN_MARGIN, Search, Settings
from hessian_probe.points.verdict import Judge, Verdict, degenerate, interrupted, is_saddle, undetermined
from hessian_probe.results import number, signed
from hessian_probe.spectrum.checkpoint import Job, Saving
from hessian_probe.spectrum.dense import empty_result
from hessian_probe.spectrum.result import EigenResult
from hessian_probe.spectrum.state import random_state

# Products allowed by default; a certified saddle takes about a dozen.
MAX_HVPS = 400
# Two Lanczos steps, the noise of a product, both ends once more, and two at the critical point.
MIN_HVPS = 7
RESERVE = 2


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

    The gradient tells whether a critical point is near, the signs of the Hessian's extreme
    eigenvalues which kind it is.  Curvature smaller than the measured rounding of the products
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
        save_to: file to which the search is saved as it goes, when it is interrupted and when it ends.
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

    Cost:
        About a dozen products for a saddle; n for a small minimum; at most `max_hvps`.  With data in
        batches, as many again and two gradients for the noise of the data.  Where
        second order is silent (and n ≤ 256), 500 to 40,000 evaluations beside them: few in one flat
        dimension.

    Source:
        Test: H.-y. Lee, What to do if my network fails to train (lecture, 2021).  Probability:
        J. Kuczyński and H. Woźniakowski 1992, doi:10.1137/0613066.
    """
    for name, option in (("confidence", confidence), ("negative_tol", negative_tol), ("rtol", rtol)):
        if option is not None and not isinstance(option, int | float):
            raise TypeError(f"{name}={option!r}; expected a number")
    if max_hvps is not None and not isinstance(max_hvps, int | np.integer):
        raise TypeError(f"max_hvps={max_hvps!r}; expected a whole number")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a probability between 0 and 1")
    if not negative_tol > 0:
        raise ValueError(f"negative_tol={negative_tol}; expected a positive number")
    if rtol is not None and not rtol > 0:
        raise ValueError(f"rtol={rtol}; expected None or a positive number")
    if max_hvps is not None and max_hvps < 0:
        raise ValueError(f"max_hvps={max_hvps}; expected None, 0 or more")
    if not isinstance(sampled, bool):
        raise TypeError(f"sampled={sampled!r}; expected True or False")
    op = hessian(loss, params, data, check=False)  # its own measurements are sharper
    if null_space is not None:
        op = RestrictedHessian(op.objective, NullDirections(op.objective, null_space))
    budget = MAX_HVPS * (2 if count else 1) if max_hvps is None else max_hvps
    settings = Settings(budget, confidence, negative_tol, rtol, progress, sampled, bool(count))
    rng = generator(key)
    options: dict[str, Any] = {"key": random_state(rng)} | settings._asdict()
    if isinstance(op, RestrictedHessian):
        options["null_space"] = flatten_rows(op.null_basis).ravel().tolist()
    for spent in ("budget", "progress"):
        del options[spent]
    job = Job("classify", op, options, Saving(save_to, save_every, resume))
    return _Probe(op, rng, settings, job).run()


class _Probe:
    """One classification: what was measured so far, and how it becomes a verdict."""

    def __init__(self, op: HessianOperator, rng: np.random.Generator, settings: Settings, job: Job) -> None:
        self.op, self.rng, self.settings, self.job = op, rng, settings, job
        self.ends: Ends | None = None
        self.probes: dict[str, LineProbe] = {}
        self.judge = Judge(self.probes, op.objective.ignored, settings)
        self.nearness = Nearness("unknown", math.nan, math.nan, None, "")
        self.sampling = Sampling()
        self.reserve = RESERVE + (PRODUCTS if settings.sampled and op.objective.data.count > 1 else 0)
        self.lower: Lower | None = None
        self.value_noise = self.slope_noise = math.nan
        self.looked = False
        self.blind = False  # the second derivative fails, or is not what the loss shows

    @property
    def spent(self) -> int:
        """Products spent so far, at every point that was looked at."""
        return self.op.objective.num_hvps

    @property
    def _left(self) -> int:
        return max(self.settings.budget - self.spent, 0)

    def run(self) -> CriticalPoint:
        try:
            return self._run()
        except KeyboardInterrupt:
            if not self.op.evaluated:
                raise  # nothing is known
            return self._point(interrupted(self.ends))

    def _run(self) -> CriticalPoint:
        bad = nonfinite(self.op)
        if bad:
            self.blind = math.isfinite(self.op.value)
            return self._point(self._second_look(undetermined(bad)))
        if not any(self.op.active):
            names = ", ".join(self.op.objective.ignored)
            return self._point(degenerate(f"the loss reads none of the parameters ({names})"))
        if self.settings.budget < MIN_HVPS:
            need = f"max_hvps={self.settings.budget} is too few: at least {MIN_HVPS} are needed"
            return self._point(undetermined(need))
        near = neighbour(self.op, self.rng)
        if not math.isfinite(near.gradient_noise) or not math.isfinite(near.value_noise):
            self.blind = True
            cause = "the loss or its gradient is not finite one rounding away"
            return self._point(self._second_look(undetermined(cause)))
        self.value_noise, self.slope_noise = near.value_noise, near.gradient_noise
        ends = self.ends = self._search(self.op, near)
        if ends.low is None or ends.high is None:
            self.blind = ends.status == "nonfinite"
            return self._point(self._second_look(undetermined(no_product(ends))))
        if ends.status == "interrupted":
            return self._point(interrupted(ends))
        cause = unstable(self.op, ends, self.noise)
        if cause:
            self.blind = True
            return self._point(self._second_look(undetermined(cause)))
        if isinstance(self.op, RestrictedHessian):
            problem = why_not_flat(self.op, ends, near, self.rng)
            if problem:
                return self._point(undetermined(problem))
        tolerance = gradient_tolerance(self.op, near, ends.top)
        for name, end in (("low", ends.low), ("high", ends.high)):
            if abs(end.value) > ends.band:
                noise = slope_noise(self.op, near, end.vector)
                self.probes[name] = probe_line(self.op, end.vector, end.value, near.value_noise, noise)
        self.nearness = judge_nearness(
            self.op,
            ends,
            tuple(self.probes.values()),
            Noise(tolerance, near.value_noise, near.gradient_noise, near.changes),
            self.rng,
            self._left - self.reserve,
        )
        self.judged = Place(self.op, ends)
        verdict = self._over_the_data(self._verdict(ends), Place(self.op, ends))
        return self._point(self._second_look(verdict))

    def _second_look(self, verdict: Verdict) -> Verdict:
        """Let finite steps judge where the loss has kinks or the second derivative fails."""
        if self.looked:
            return verdict
        self.looked = verdict.label == "degenerate"  # what higher order makes of it is not asked again
        op = self.nearness.operator or self.op
        seen = Seen(self.ends, self.probes, self.value_noise, self.slope_noise, self.blind)
        verdict, found = second_look(op, seen, verdict, self.rng)
        if found is None:
            return verdict
        if self.settings.sampled and self.op.objective.data.count > 1:
            need = "batches are a sample, and finite steps were not repeated on held-out ones; sampled=False"
            return undetermined(need, *verdict.evidence)
        if op is self.op:
            critical = self.op.value if found.offset == 0 else math.nan
            self.nearness = Nearness("exact", found.offset, critical, None, "")
        if found.direction is not None:
            self.lower = Lower(scale(found.scales[0][0], found.direction), straight=True)
        return verdict

    def _over_the_data(self, verdict: Verdict, here: Place) -> Verdict:
        """Check that the label holds for what the batches are a sample of."""
        if not (self.settings.sampled and self.op.objective.data.is_sequence):
            return verdict
        confidence, left = self.settings.confidence, lambda: self._left
        population = Population(here, self.judged, self.probes, confidence, self.rng, left)
        verdict, self.sampling = population.judge(verdict)
        return verdict

    def _search(self, op: HessianOperator, near: Neighbour) -> Ends:
        self.noise = ProductNoise(near)
        left = self._left - self.reserve
        return Search(op, self.noise, self.rng, self.settings, left, self.job).run()

    def _verdict(self, ends: Ends) -> Verdict:
        """Join curvature and nearness."""
        unconfirmed = self.judge.unconfirmed(ends)
        if unconfirmed:
            self.blind = True
            return undetermined(unconfirmed)
        if self.nearness.kind == "far":
            return Verdict(
                "not_critical",
                True,
                False,
                None,
                (self.nearness.reason, *self.judge.curvature(ends)),
            )
        if self.nearness.kind == "unknown":
            return undetermined(self.nearness.reason, *self.judge.curvature(ends))
        evidence = (self.nearness.reason,)
        if self.nearness.operator is not None:
            return self._verdict_there(ends, evidence)
        return self._looked_around(self._resolved(ends, self.op, evidence), self.op)

    def _resolved(self, ends: Ends, op: HessianOperator, evidence: tuple[str, ...]) -> Verdict:
        """Judge a critical point by second order, and by higher order where that is silent."""
        verdict = self.judge.by_signs(ends, evidence)
        if verdict.label == "degenerate" and op.objective.noticed.kinks:
            verdict = self._second_look(verdict)
        if verdict.label == "degenerate":
            verdict, self.lower = resolve(op, ends, verdict, self._left, self.rng)
        return verdict

    def _looked_around(self, verdict: Verdict, op: HessianOperator) -> Verdict:
        """Withdraw a minimum or maximum if a sample near it is lower or higher."""
        if verdict.label not in ("minimum", "maximum") or not self.probes:
            return verdict
        sign = 1.0 if verdict.label == "minimum" else -1.0
        radius = min(probe.radius for probe in self.probes.values())
        found = beyond(op, sign, radius, self.value_noise, self.rng)
        if found is None:
            return verdict
        self.blind = True
        side = "lower" if sign > 0 else "higher"
        return undetermined(
            f"by its curvature a {verdict.label}, but a {side} loss was sampled {number(found, 2)} away: a "
            "kink or a step, which derivatives do not see",
            *verdict.evidence,
        )

    def _verdict_there(self, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        """Check at the predicted critical point what was seen here; it is what the label is about."""
        there = self.nearness.operator
        assert there is not None
        if is_saddle(ends):
            return self._saddle_there(ends, there, evidence)
        if not self.nearness.regular:
            return undetermined(
                "the gradient falls towards the predicted critical point only as fast as where there is no "
                "curvature, so second order cannot tell what it is (rounding can do the same)",
                *evidence,
                *self.judge.curvature(ends),
            )
        near = neighbour(there, self.rng)
        moved = self._search(there, near)
        if moved.status == "interrupted":
            raise KeyboardInterrupt
        if moved.low is None or moved.high is None:
            return undetermined(no_product(moved), *evidence)
        self.judged = Place(there, moved)
        verdict = self._resolved(moved, there, (*evidence, "the spectrum was computed at that point"))
        return self._looked_around(verdict, there)

    def _saddle_there(self, ends: Ends, there: HessianOperator, evidence: tuple[str, ...]) -> Verdict:
        assert ends.low is not None
        assert ends.high is not None
        low, high = (float(dot(e.vector, there.apply(e.vector))) for e in (ends.low, ends.high))
        found = f"curvature at that point along the same directions: {signed(low)} and {signed(high)}"
        margin = SIGN_MARGIN * ends.band
        if not (low < -margin and high > margin):
            return undetermined(found + ": not of both signs as here", *evidence)
        self.judged = Place(there, ends)
        verdict = self.judge.by_signs(ends, (*evidence, found))
        if self.nearness.regular and self.nearness.polished:
            return verdict
        if self.nearness.regular:
            predicted = "both signs are computed; that a critical point is there is predicted, not certified"
            return verdict._replace(certified=False, evidence=(*verdict.evidence, predicted))
        vanishing = "both shrink with the gradient: the saddle is of higher order, not certified"
        return verdict._replace(strict=False, certified=False, evidence=(*verdict.evidence, vanishing))

    def _point(self, verdict: Verdict) -> CriticalPoint:
        ends, op = self.ends, self.op
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        trusted = bool(self.probes.get("low") and self.probes["low"].confirmed_by)
        counted = count_negative(op, ends, self.settings, self._left, self.rng, trusted=trusted)
        near = verdict.label not in ("not_critical", "undetermined")
        return CriticalPoint(
            label=verdict.label,
            strict=verdict.strict,
            certified=verdict.certified,
            confidence=verdict.confidence,
            loss=op.value,
            grad_norm=float(norm(op.gradient_vector)),
            distance=self.nearness.distance if near else math.nan,
            critical_loss=self.nearness.critical_loss if near else math.nan,
            grad_norm_error=self.sampling.gradient,
            samples_needed=self.sampling.samples,
            lowest=self._eigen(low, 1, self.sampling.low),
            highest=self._eigen(high, 0, self.sampling.high),
            index_at_least=counted.at_least,
            index_estimate=counted.estimate,
            multiplicities=counted.multiplicities,
            zero_band=ends.band if ends is not None else math.nan,
            radius=min((p.radius for p in self.probes.values() if p.confirmed_by), default=math.nan),
            escape_direction=self._escape_direction(low) if trusted else self._straight_descent(),
            descent=self._descent(),
            evidence=(*verdict.evidence, *self._notes()),
            num_hvps=self.spent,
            num_evaluations=op.objective.num_evaluations,
            size=op.size,
            dtype=op.objective.precision,
        )

    def _notes(self) -> tuple[str, ...]:
        names = self.op.objective.ignored
        left_out = (about(self.op),) if isinstance(self.op, RestrictedHessian) else ()
        return left_out + tuple(f"the loss ignores {name}: it is flat along it" for name in names)

    def _eigen(self, end: End | None, num_lowest: int, error: float | None) -> EigenResult:
        op, ends = self.op, self.ends
        rtol = 1e-3 if self.settings.rtol is None else self.settings.rtol
        if end is None or ends is None:
            status = "skipped" if ends is None else ends.status
            return empty_result(op, self.spent, "lanczos", rtol, status)
        good = end.residual <= rtol * ends.top
        early = "ended when the label was settled; rtol=… asks for more accuracy"
        return EigenResult(
            eigenvalues=np.array([end.value]),
            eigenvectors=tangent(op.layout, tuple(v[None] for v in end.vector), op.objective.rest, 1),
            residual_norms=np.array([end.residual]),
            converged=np.array([good]),
            num_lowest=num_lowest,
            num_hvps=self.spent,
            status="converged" if good else ("settled" if ends.settled else ends.status),
            method="lanczos" if ends.spectrum is None else "dense",
            norm=ends.top,
            rtol=rtol,
            size=op.size,
            message="" if good else early,
            standard_errors=None if error is None else np.array([error]),
        )

    def _escape_direction(self, low: End | None) -> PyTree | None:
        if low is None or self.ends is None or low.value >= -self.ends.band:
            return self._straight_descent()
        slope = float(dot(self.op.gradient_vector, low.vector))
        sign = -float(np.sign(slope)) or self.probes["low"].downhill or _leading_sign(low.vector)
        return tangent(self.op.layout, scale(sign, low.vector), self.op.objective.rest)

    def _descent(self) -> PyTree | None:
        """Displacement from the parameters to the lower loss that higher order showed."""
        if self.lower is None:
            return None
        move, there = self.lower.move, self.nearness.operator
        if there is not None:
            work = self.op.layout.work_dtypes
            move = add_scaled(add_scaled(move, 1.0, cast(there.x, work)), -1.0, cast(self.op.x, work))
        return tangent(self.op.layout, move, self.op.objective.rest)

    def _straight_descent(self) -> PyTree | None:
        if self.lower is None or not self.lower.straight:
            return None
        unit = scale(1.0 / float(norm(self.lower.move)), self.lower.move)
        return tangent(self.op.layout, unit, self.op.objective.rest)


def _leading_sign(vector: Vector) -> float:
    """Sign of the entry of largest magnitude: a convention for directions without a slope."""
    entries = flatten_rows(tuple(leaf[None] for leaf in vector))[0]
    return float(np.sign(entries[np.argmax(np.abs(entries))]))
