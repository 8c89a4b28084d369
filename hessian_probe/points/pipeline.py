"""The order of a classification: measure, locate, judge, review; "not_critical" is decided here."""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.arrays import dot, scale
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs, ExtremesSearch, Point
from hessian_probe.points.line_check import LineCheck, gradient_check, line_check, spot_check
from hessian_probe.points.locate import LocatedPoint, locate
from hessian_probe.points.null_space import check_symmetry
from hessian_probe.points.preconditions import no_product, nonfinite, not_repeatable
from hessian_probe.points.reviews.degenerate.review import Descent, review_degenerate
from hessian_probe.points.reviews.inertia import review_inertia
from hessian_probe.points.reviews.nonsmooth.review import (
    DerivativeEvidence,
    review_nonsmooth,
    withhold_at_kink,
)
from hessian_probe.points.reviews.sampling.review import PRODUCTS, SamplingErrors, SamplingReview
from hessian_probe.points.rounding import SINGLE, Rounding
from hessian_probe.points.second_order import (
    SecondOrderTest,
    Verdict,
    degenerate,
    interrupted,
    is_saddle,
    undetermined,
)
from hessian_probe.points.settings import Settings

# Two Lanczos steps, a product's rounding error, both extreme eigenvectors again, two at the critical point.
MIN_HVPS = 7
RESERVE = 2


class Pipeline:
    """One classification: what was measured so far, and how it becomes a verdict."""

    def __init__(self, op: HessianOperator, rng: np.random.Generator, settings: Settings, job: Job) -> None:
        self.op, self.rng, self.settings, self.job = op, rng, settings, job
        self.extremes: ExtremeEigenpairs | None = None
        self.line_checks: dict[str, LineCheck] = {}
        self.second_order = SecondOrderTest(self.line_checks, op.objective.ignored, settings)
        self.located = LocatedPoint("unknown", math.nan, math.nan, None, ())
        self.sampling = SamplingErrors()
        self.reserve = RESERVE + (PRODUCTS if settings.sampled and op.objective.data.count > 1 else 0)
        self.lower: Descent | None = None
        self.rounding = Rounding.unmeasured(op)
        self.reviewed_nonsmooth = False
        self.derivative_failed = False  # the second derivative fails, or is not what the loss shows

    @property
    def spent(self) -> int:
        """Products spent so far, at the parameters and at the predicted critical point."""
        return self.op.objective.cost.num_hvps

    @property
    def left(self) -> int:
        """Products that the budget still allows."""
        return max(self.settings.budget - self.spent, 0)

    def run(self) -> Verdict:
        """Measure and judge; what was measured stays in the attributes."""
        bad = nonfinite(self.op)
        if bad is not None:
            self.derivative_failed = math.isfinite(self.op.value)
            return self._review_nonsmooth(undetermined(bad))
        if not any(self.op.active):
            names = ", ".join(self.op.objective.ignored)
            return degenerate(Reason("no_parameter_read", names=names))
        if self.settings.budget < MIN_HVPS:
            return undetermined(Reason("budget_too_small", budget=self.settings.budget, least=MIN_HVPS))
        rounding = Rounding.measured(self.op, self.rng)
        if not rounding.finite:
            self.derivative_failed = True
            return self._review_nonsmooth(undetermined(Reason("nonfinite_nearby")))
        self.rounding = rounding
        extremes = self.extremes = self._search(self.op, rounding)
        if extremes.low is None or extremes.high is None:
            self.derivative_failed = extremes.status == "nonfinite"
            return self._review_nonsmooth(undetermined(no_product(extremes)))
        if extremes.status == "interrupted":
            return interrupted(extremes)
        cause = not_repeatable(self.op, extremes, rounding)
        if cause is not None:
            self.derivative_failed = True
            return self._review_nonsmooth(undetermined(cause))
        if isinstance(self.op, RestrictedHessian):
            problem = check_symmetry(self.op, extremes, rounding, self.rng)
            if problem is not None:
                return undetermined(problem)
        for name, end in (("low", extremes.low), ("high", extremes.high)):
            if abs(end.value) > extremes.band:
                error = rounding.slope(end.vector)
                self.line_checks[name] = line_check(self.op, end.vector, end.value, rounding, error)
        self.located = locate(
            self.op,
            extremes,
            tuple(self.line_checks.values()),
            rounding,
            self.rng,
            self.left - self.reserve,
        )
        self.judged = Point(self.op, extremes)
        verdict = self._review_sampling(self._verdict(extremes), Point(self.op, extremes))
        return self._review_nonsmooth(self._without_certificate(verdict))

    def _without_certificate(self, verdict: Verdict) -> Verdict:
        """With a null space given by the user an extremum is not certified: flatness along it was sampled."""
        if isinstance(self.op, RestrictedHessian) and verdict.label in ("minimum", "maximum"):
            return verdict._replace(certified=False)
        return verdict

    def _review_nonsmooth(self, verdict: Verdict) -> Verdict:
        """Let finite steps judge where the loss has kinks or the second derivative fails."""
        if self.reviewed_nonsmooth:
            return verdict
        # What higher order makes of a degenerate point is not reviewed again.
        self.reviewed_nonsmooth = verdict.label == "degenerate"
        op = self.located.operator or self.op
        seen = DerivativeEvidence(self.extremes, self.line_checks, self.rounding, self.derivative_failed)
        verdict, found = review_nonsmooth(op, seen, verdict, self.rng)
        if found is None:
            return verdict
        if self.settings.sampled and self.op.objective.data.count > 1:
            return undetermined(Reason("finite_steps_not_held_out"), *verdict.evidence)
        if op is self.op:
            critical = self.op.value if found.offset == 0 else math.nan
            self.located = LocatedPoint("exact", found.offset, critical, None, ())
        if found.direction is not None:
            self.lower = Descent(scale(found.scales[0][0], found.direction), straight=True)
        return verdict

    def _review_sampling(self, verdict: Verdict, here: Point) -> Verdict:
        """Check that the label holds for what the batches are a sample of."""
        if not (self.settings.sampled and self.op.objective.data.is_sequence):
            return verdict
        confidence, left = self.settings.confidence, lambda: self.left
        review = SamplingReview(here, self.judged, self.line_checks, confidence, self.rng, left)
        verdict, self.sampling = review.judge(verdict)
        return verdict

    def _search(self, op: HessianOperator, rounding: Rounding) -> ExtremeEigenpairs:
        left = self.left - self.reserve
        return ExtremesSearch(op, rounding, self.rng, self.settings, left, self.job).run()

    def _verdict(self, extremes: ExtremeEigenpairs) -> Verdict:
        """Join curvature and nearness."""
        unconfirmed = self.second_order.unconfirmed(extremes)
        if unconfirmed is not None:
            self.derivative_failed = True
            return undetermined(unconfirmed)
        if self.located.kind == "far":
            denied = gradient_check(self.op, self.rounding)
            if denied is not None:
                # At a kink the gradient is none; finite steps may show what it is.
                self.derivative_failed = True
                return undetermined(denied, *self.second_order.curvature(extremes))
            evidence = (*self.located.evidence, *self.second_order.curvature(extremes))
            return Verdict("not_critical", True, False, None, evidence)
        if self.located.kind == "unknown":
            return undetermined(*self.located.evidence, *self.second_order.curvature(extremes))
        evidence = self.located.evidence
        if self.located.operator is not None:
            return self._verdict_there(extremes, evidence)
        return self._spot_checked(self._judge_critical_point(extremes, self.op, evidence), self.op)

    def _judge_critical_point(
        self, extremes: ExtremeEigenpairs, op: HessianOperator, evidence: tuple[Reason, ...]
    ) -> Verdict:
        """Judge a critical point by second order, and by higher order where that is silent."""
        verdict = self.second_order.by_signs(extremes, evidence)
        if verdict.label == "degenerate" and op.objective.facts.kinks:
            verdict = self._review_nonsmooth(verdict)
        if verdict.label == "degenerate":
            verdict, check, down = review_inertia(op, extremes, verdict, self.left, self.rng)
            if check is not None and down is not None:
                self.lower = Descent(scale(check.radius, down), straight=True)
        if verdict.label == "degenerate" and op.eps > SINGLE:
            return verdict.with_reasons(Reason("precision_too_low", precision=op.objective.precision))
        if verdict.label == "degenerate":
            verdict, self.lower = review_degenerate(op, extremes, verdict, self.left, self.rng)
            if verdict.label in ("minimum", "maximum"):
                verdict = withhold_at_kink(op, verdict)
        return verdict

    def _spot_checked(self, verdict: Verdict, op: HessianOperator) -> Verdict:
        """Withdraw a minimum or maximum if a sample near it is lower or higher."""
        if verdict.label not in ("minimum", "maximum") or not self.line_checks:
            return verdict
        sign = 1.0 if verdict.label == "minimum" else -1.0
        radius = min(check.radius for check in self.line_checks.values())
        found = spot_check(op, sign, radius, self.rounding, self.rng)
        if found is None:
            return verdict
        self.derivative_failed = True
        side = "lower" if sign > 0 else "higher"
        sampled = Reason("spot_check", label=verdict.label, side=side, distance=found)
        return undetermined(sampled, *verdict.evidence)

    def _verdict_there(self, extremes: ExtremeEigenpairs, evidence: tuple[Reason, ...]) -> Verdict:
        """Check at the predicted critical point what was seen here; it is what the label is about."""
        there = self.located.operator
        assert there is not None
        if is_saddle(extremes):
            return self._saddle_there(extremes, there, evidence)
        if not self.located.regular:
            return undetermined(Reason("not_regular"), *evidence, *self.second_order.curvature(extremes))
        moved = self._search(there, Rounding.measured(there, self.rng))
        if moved.status == "interrupted":
            raise KeyboardInterrupt
        if moved.low is None or moved.high is None:
            return undetermined(no_product(moved), *evidence)
        self.judged = Point(there, moved)
        verdict = self._judge_critical_point(moved, there, (*evidence, Reason("spectrum_there")))
        return self._spot_checked(verdict, there)

    def _saddle_there(
        self, extremes: ExtremeEigenpairs, there: HessianOperator, evidence: tuple[Reason, ...]
    ) -> Verdict:
        assert extremes.low is not None
        assert extremes.high is not None
        low, high = (float(dot(e.vector, there.apply(e.vector))) for e in (extremes.low, extremes.high))
        if not (low < -extremes.margin and high > extremes.margin):
            return undetermined(Reason("signs_differ_there", low=low, high=high), *evidence)
        self.judged = Point(there, extremes)
        found = Reason("curvature_there", low=low, high=high)
        verdict = self.second_order.by_signs(extremes, (*evidence, found))
        if self.located.regular and self.located.polished:
            return verdict
        if self.located.regular:
            return verdict._replace(certified=False).with_reasons(Reason("saddle_predicted"))
        return verdict._replace(strict=False, certified=False).with_reasons(Reason("saddle_vanishing"))
