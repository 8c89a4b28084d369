"""All measurements at the parameters, in a fixed order; no label is given here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector
from hessian_probe.jobs.checkpoint import Job
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.restricted import RestrictedHessian
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import ExtremeEigenpairs, ExtremesSearch, Point
from hessian_probe.points.line_check import LineCheck, derivative_check, line_check
from hessian_probe.points.locate import LocatedPoint, locate
from hessian_probe.points.null_space import check_symmetry
from hessian_probe.points.preconditions import no_product, nonfinite, not_repeatable
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.settings import Settings
from hessian_probe.points.thresholds import DENSE_SIZE, MIN_HVPS, REGION_HVPS, RESERVED_HVPS, SAMPLING_HVPS

UNLOCATED = LocatedPoint("unknown", math.nan, math.nan, None, ())


class Measurements(NamedTuple):
    """What is known of a point before it is labelled.

    Attributes:
        op: operator at the parameters.
        settings: what was asked.
        rng: source of randomness.
        job: saves the searches as they go.
        rounding: rounding error at the parameters.
        extremes: extreme eigenpairs there, or None.
        line_checks: what the loss shows along "low" and "high", where these lie beyond the zero band.
        located: the critical point that is near, or why none is.
        problem: what rules out a label, or None.
        failed: whether the second derivative does not exist, or cannot be repeated.
        lower: displacement to a lower loss, where the derivatives are not those of the loss.
    """

    op: HessianOperator
    settings: Settings
    rng: np.random.Generator
    job: Job
    rounding: Rounding
    extremes: ExtremeEigenpairs | None = None
    line_checks: Mapping[str, LineCheck] = {}
    located: LocatedPoint = UNLOCATED
    problem: Reason | None = None
    failed: bool = False
    lower: Vector | None = None

    @property
    def left(self) -> int:
        """Products that the budget still allows."""
        return max(self.settings.budget - self.op.objective.cost.num_hvps, 0)

    @property
    def unreserved(self) -> int:
        """Products left but for those that later steps need."""
        return self.left - RESERVED_HVPS - (SAMPLING_HVPS if self.sampled else 0)

    @property
    def sampled(self) -> bool:
        """Whether the batches are taken for a sample of more data."""
        return self.settings.sampled and self.op.objective.data.count > 1

    @property
    def here(self) -> Point:
        """The parameters with their extreme eigenpairs."""
        assert self.extremes is not None
        return Point(self.op, self.extremes)


def measure(op: HessianOperator, settings: Settings, rng: np.random.Generator, job: Job) -> Measurements:
    """Measure rounding, extreme eigenpairs, what the loss shows of them, and where a critical point is."""
    m = Measurements(op, settings, rng, job, Rounding.unmeasured(op))
    problem = nonfinite(op)
    if problem is not None:
        return m._replace(problem=problem, failed=math.isfinite(op.value))
    if not any(op.active):
        return m._replace(problem=Reason("no_parameter_read", names=", ".join(op.objective.ignored)))
    if settings.budget < MIN_HVPS:
        return m._replace(problem=Reason("budget_too_small", budget=settings.budget, least=MIN_HVPS))
    rounding = Rounding.measured(op, rng)
    if not rounding.finite:
        return m._replace(problem=Reason("nonfinite_nearby"), failed=True)
    false = derivative_check(op, rounding, rng.spawn(1)[0])
    if false is not None:
        return m._replace(problem=false.reason, lower=false.lower)
    # Where no matrix can be formed, what is left to gain takes products of its own.
    kept = REGION_HVPS if op.size > max(m.unreserved, DENSE_SIZE) and not settings.counting else 0
    budget = max(m.unreserved - kept, min(m.unreserved, kept))
    extremes = ExtremesSearch(op, rounding, rng, settings, budget, job).run()
    m = m._replace(rounding=rounding, extremes=extremes)
    if extremes.low is None or extremes.high is None:
        return m._replace(problem=no_product(extremes), failed=extremes.status == "nonfinite")
    if extremes.status == "interrupted":
        return m._replace(problem=Reason("interrupted", when=after(extremes)))
    problem = not_repeatable(op, extremes, rounding)
    if problem is not None:
        return m._replace(problem=problem, failed=True)
    try:
        return _measure_critical_point(m, extremes)
    except KeyboardInterrupt:
        return m._replace(problem=Reason("interrupted", when=after(extremes)))


def _measure_critical_point(m: Measurements, extremes: ExtremeEigenpairs) -> Measurements:
    op, rounding = m.op, m.rounding
    if isinstance(op, RestrictedHessian):
        problem = check_symmetry(op, extremes, rounding, m.rng)
        if problem is not None:
            return m._replace(problem=problem)
    checks = {}
    for name, end in (("low", extremes.low), ("high", extremes.high)):
        if end is not None and abs(end.value) > extremes.band:
            checks[name] = line_check(op, end.vector, end.value, rounding, rounding.slope(end.vector))
    located = locate(op, extremes, tuple(checks.values()), rounding, m.rng, m.unreserved)
    return m._replace(line_checks=checks, located=located)


def after(extremes: ExtremeEigenpairs) -> str:
    """Say how far an interrupted search came."""
    return f"after {extremes.steps} Lanczos steps, before the label was settled"
