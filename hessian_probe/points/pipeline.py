"""One classification: measure, then judge; each step in a file of its own."""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.arrays import dot, scale
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.extreme_eigenpairs import Ends
from hessian_probe.points.extremes import SIGN_MARGIN, Search
from hessian_probe.points.gradient_check import denied_slope
from hessian_probe.points.inertia import judge_scaled
from hessian_probe.points.line_check import LineProbe, probe_line
from hessian_probe.points.locate import Nearness, Noise
from hessian_probe.points.nearness import judge_nearness
from hessian_probe.points.newton_path import Place
from hessian_probe.points.null_space import why_not_flat
from hessian_probe.points.preconditions import no_product, nonfinite, unstable
from hessian_probe.points.reviews.degenerate.review import Lower, resolve
from hessian_probe.points.reviews.nonsmooth.review import Seen, hold_at_kinks, second_look
from hessian_probe.points.reviews.sampling.review import PRODUCTS, Population, Sampling
from hessian_probe.points.rounding import (
    SINGLE,
    Neighbour,
    ProductNoise,
    gradient_tolerance,
    neighbour,
    slope_noise,
)
from hessian_probe.points.second_order import Judge, Verdict, degenerate, interrupted, is_saddle, undetermined
from hessian_probe.points.settings import Settings
from hessian_probe.points.spot_check import beyond
from hessian_probe.results import number, signed

# Two Lanczos steps, the noise of a product, both ends once more, and two at the critical point.
MIN_HVPS = 7
RESERVE = 2


class Probe:
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
    def left(self) -> int:
        """Products that the budget still allows."""
        return max(self.settings.budget - self.spent, 0)

    def run(self) -> Verdict:
        """Measure and judge; what was measured stays in the attributes."""
        bad = nonfinite(self.op)
        if bad:
            self.blind = math.isfinite(self.op.value)
            return self._second_look(undetermined(bad))
        if not any(self.op.active):
            names = ", ".join(self.op.objective.ignored)
            return degenerate(f"the loss reads none of the parameters ({names})")
        if self.settings.budget < MIN_HVPS:
            need = f"max_hvps={self.settings.budget} is too few: at least {MIN_HVPS} are needed"
            return undetermined(need)
        near = neighbour(self.op, self.rng)
        if not math.isfinite(near.gradient_noise) or not math.isfinite(near.value_noise):
            self.blind = True
            cause = "the loss or its gradient is not finite one rounding away"
            return self._second_look(undetermined(cause))
        self.value_noise, self.slope_noise = near.value_noise, near.gradient_noise
        ends = self.ends = self._search(self.op, near)
        if ends.low is None or ends.high is None:
            self.blind = ends.status == "nonfinite"
            return self._second_look(undetermined(no_product(ends)))
        if ends.status == "interrupted":
            return interrupted(ends)
        cause = unstable(self.op, ends, self.noise)
        if cause:
            self.blind = True
            return self._second_look(undetermined(cause))
        if isinstance(self.op, RestrictedHessian):
            problem = why_not_flat(self.op, ends, near, self.rng)
            if problem:
                return undetermined(problem)
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
            self.left - self.reserve,
        )
        self.judged = Place(self.op, ends)
        verdict = self._over_the_data(self._verdict(ends), Place(self.op, ends))
        return self._second_look(self._beside_null_space(verdict))

    def _beside_null_space(self, verdict: Verdict) -> Verdict:
        """An extremum beside a null space is no proof: that nothing leads out along that was sampled."""
        if isinstance(self.op, RestrictedHessian) and verdict.label in ("minimum", "maximum"):
            return verdict._replace(certified=False)
        return verdict

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
        confidence, left = self.settings.confidence, lambda: self.left
        population = Population(here, self.judged, self.probes, confidence, self.rng, left)
        verdict, self.sampling = population.judge(verdict)
        return verdict

    def _search(self, op: HessianOperator, near: Neighbour) -> Ends:
        self.noise = ProductNoise(near)
        left = self.left - self.reserve
        return Search(op, self.noise, self.rng, self.settings, left, self.job).run()

    def _verdict(self, ends: Ends) -> Verdict:
        """Join curvature and nearness."""
        unconfirmed = self.judge.unconfirmed(ends)
        if unconfirmed:
            self.blind = True
            return undetermined(unconfirmed)
        if self.nearness.kind == "far":
            denied = denied_slope(self.op, self.value_noise)
            if denied:
                self.blind = True  # at a kink the gradient is none; finite steps may see what it is
                return undetermined(denied, self.nearness.reason, *self.judge.curvature(ends))
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
        if verdict.label == "degenerate" and op.objective.facts.kinks:
            verdict = self._second_look(verdict)
        if verdict.label == "degenerate":
            verdict, probe, down = judge_scaled(op, ends, verdict, self.left, self.rng)
            if probe is not None and down is not None:
                self.lower = Lower(scale(probe.radius, down), straight=True)
        if verdict.label == "degenerate" and op.eps > SINGLE:
            coarse = f"in {op.objective.precision} a curvature within the zero band is not told from none"
            return verdict._replace(evidence=(*verdict.evidence, coarse))
        if verdict.label == "degenerate":
            verdict, self.lower = resolve(op, ends, verdict, self.left, self.rng)
            if verdict.label in ("minimum", "maximum"):
                verdict = hold_at_kinks(op, verdict)
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
