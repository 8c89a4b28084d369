"""Label the point where training stopped, with the evidence for the label."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, dot, first_nonfinite, generator, norm, scale, tangent
from hessian_probe.operators.hessian import HessianOperator, flatten_rows, hessian
from hessian_probe.points.ends import End, Ends, Search
from hessian_probe.points.lines import LineProbe, probe_line
from hessian_probe.points.nearness import Nearness, judge_nearness
from hessian_probe.points.noise import Neighbour, ProductNoise, gradient_tolerance, neighbour
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number, signed
from hessian_probe.spectrum.eigsh import empty_result
from hessian_probe.spectrum.result import EigenResult

# Products allowed by default; a certified saddle takes about a dozen.
MAX_HVPS = 400
# A product that changes by more than this share of ‖H‖ between two evaluations a rounding apart
# cannot carry a verdict: the loss is random, its data change, or it is not smooth here.
UNSTABLE = 0.05


class Verdict(NamedTuple):
    """A label with what it rests on."""

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    evidence: tuple[str, ...]


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
    progress: Callable[[str], None] | None = None,
) -> CriticalPoint:
    """Say what kind of point the parameters are at or near, how sure that is, and why.

    The gradient tells whether a critical point is near, the signs of the Hessian's extreme
    eigenvalues which kind it is.  Curvature smaller than the measured rounding of the products
    counts as zero; curvature beyond it is confirmed on the loss itself.

    * saddle: curvature of both signs, each a computed Rayleigh quotient beyond the zero band.
    * minimum, maximum: no curvature of the wrong sign.  Proved where the whole spectrum is computed
      (up to 256 variables); beyond that a probability, stated in the evidence.
    * degenerate: second order is silent along some direction and does not decide.
    * not_critical: the gradient is too large; curvature is reported all the same.
    * undetermined: the evidence says why, and what would be needed.

    Multiplying the loss by a positive constant, or adding one, changes no label.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its real floating-point leaves are the variables.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        key: random key; None means `jax.random.key(0)`, so the same call gives the same answer.
        max_hvps: products allowed; None means 400, or one for each variable where up to 256 of them
            are multiplied densely.
        confidence: probability with which a minimum by Lanczos must hold.
        negative_tol: for that statement, how negative a missed eigenvalue may be, relative to ‖H‖.
        rtol: None stops as soon as the label is settled; a number asks for both ends to residual
            rtol·‖H‖ as well.
        progress: called with a line of text as the search goes on.

    Returns:
        CriticalPoint.

    Raises:
        TypeError: `loss` is not callable or gives no real scalar; data can be read only once.
        ValueError: `params` has no variable, data is empty, or an option is out of range.

    Cost:
        About a dozen products for a saddle; n for a small minimum; at most `max_hvps`.

    Source:
        Test: H.-y. Lee, What to do if my network fails to train (lecture, 2021).  Probability:
        J. Kuczyński and H. Woźniakowski 1992, doi:10.1137/0613066.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}; expected a probability between 0 and 1")
    if not negative_tol > 0:
        raise ValueError(f"negative_tol={negative_tol}; expected a positive number")
    if max_hvps is not None and max_hvps < 1:
        raise ValueError(f"max_hvps={max_hvps}; expected at least 1")
    op = hessian(loss, params, data, check=False)  # its own measurements are sharper
    budget = MAX_HVPS if max_hvps is None else max_hvps
    probe = _Probe(op, generator(key), budget, confidence, negative_tol, rtol, progress)
    return probe.run()


class _Probe:
    """One classification: what was measured so far, and how it becomes a verdict."""

    def __init__(
        self,
        op: HessianOperator,
        rng: np.random.Generator,
        budget: int,
        confidence: float,
        negative_tol: float,
        rtol: float | None,
        progress: Callable[[str], None] | None,
    ) -> None:
        self.op, self.budget, self.confidence = op, budget, confidence
        self.negative_tol, self.rtol, self.progress = negative_tol, rtol, progress
        self.rng = rng
        self.ends: Ends | None = None
        self.probes: dict[str, LineProbe] = {}
        self.nearness = Nearness("unknown", math.nan, math.nan, None, "")
        self.notes = [f"the loss ignores {name}: it is flat along it" for name in op.objective.ignored]

    @property
    def spent(self) -> int:
        """Products spent so far, at every point that was looked at."""
        return self.op.objective.num_hvps

    def run(self) -> CriticalPoint:
        bad = _nonfinite(self.op)
        if bad:
            return self._point(_undetermined(bad))
        if not any(self.op.active):
            names = ", ".join(self.op.objective.ignored)
            return self._point(_degenerate(f"the loss reads none of the parameters ({names})"))
        near = neighbour(self.op, self.rng)
        if not math.isfinite(near.gradient_noise) or not math.isfinite(near.value_noise):
            return self._point(_undetermined("the loss or its gradient is not finite one rounding away"))
        ends = self.ends = self._search(self.op, near)
        if ends.low is None or ends.high is None:
            return self._point(_undetermined(_no_product(ends)))
        unstable = _unstable(self.op, ends, self.noise)
        if unstable:
            return self._point(_undetermined(unstable))
        tolerance = gradient_tolerance(self.op, near, ends.top)
        for name, end in (("low", ends.low), ("high", ends.high)):
            if abs(end.value) > ends.band:
                slope_noise = near.gradient_noise
                self.probes[name] = probe_line(self.op, end.vector, end.value, near.value_noise, slope_noise)
        self.nearness = judge_nearness(
            self.op,
            ends,
            tuple(self.probes.values()),
            (tolerance, near.value_noise),
            self.rng,
            max(self.budget - self.spent, 0),
        )
        return self._point(self._verdict(ends))

    def _search(self, op: HessianOperator, near: Neighbour) -> Ends:
        self.noise = ProductNoise(near)
        return Search(
            op,
            self.noise,
            self.rng,
            budget=self.budget - self.spent,
            confidence=self.confidence,
            negative_tol=self.negative_tol,
            rtol=self.rtol,
            progress=self.progress,
        ).run()

    def _verdict(self, ends: Ends) -> Verdict:
        """Join curvature and nearness."""
        unconfirmed = self._unconfirmed(ends)
        if unconfirmed:
            return _undetermined(unconfirmed)
        if self.nearness.kind == "far":
            return Verdict("not_critical", True, False, None, (self.nearness.reason, *self._curvature(ends)))
        if self.nearness.kind == "unknown":
            return _undetermined(self.nearness.reason, *self._curvature(ends))
        evidence = (self.nearness.reason,)
        if self.nearness.operator is not None:
            return self._verdict_there(ends, evidence)
        return self._by_signs(ends, evidence)

    def _unconfirmed(self, ends: Ends) -> str:
        """Say which claimed curvature the loss itself does not show."""
        for name, end in (("low", ends.low), ("high", ends.high)):
            probe = self.probes.get(name)
            if probe is None or probe.confirmed_by or end is None:
                continue
            if math.isnan(probe.measured):
                return (
                    f"the Hessian claims curvature {signed(end.value)}, but no probed distance shows it in "
                    "the loss or its gradient: a kink, a custom derivative, or rounding; float64 would tell"
                )
            return (
                f"the Hessian claims curvature {signed(end.value)}, the loss shows {signed(probe.measured)} "
                "over the same direction: its derivative is not that of the loss (custom_vjp or custom_jvp?)"
            )
        return ""

    def _verdict_there(self, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        """Check at the predicted critical point what was seen here; it is what the label is about."""
        there = self.nearness.operator
        assert there is not None
        if _is_saddle(ends):
            return self._saddle_there(ends, there, evidence)
        if not self.nearness.regular:
            return _undetermined(
                "towards the predicted critical point curvature vanishes with the gradient, so second order "
                "cannot tell what it is",
                *evidence,
                *self._curvature(ends),
            )
        near = neighbour(there, self.rng)
        moved = self._search(there, near)
        if moved.low is None or moved.high is None:
            return _undetermined(_no_product(moved), *evidence)
        return self._by_signs(moved, (*evidence, "the spectrum was computed at that point"))

    def _saddle_there(self, ends: Ends, there: HessianOperator, evidence: tuple[str, ...]) -> Verdict:
        assert ends.low is not None
        assert ends.high is not None
        low, high = (float(dot(e.vector, there.apply(e.vector))) for e in (ends.low, ends.high))
        found = f"curvature at that point along the same directions: {signed(low)} and {signed(high)}"
        if not (low < -ends.band and high > ends.band):
            return _undetermined(found + ": not of both signs as here", *evidence)
        verdict = self._by_signs(ends, (*evidence, found))
        if self.nearness.regular:
            return verdict
        vanishing = "both shrink with the gradient: the saddle is of higher order, not certified"
        return verdict._replace(strict=False, certified=False, evidence=(*verdict.evidence, vanishing))

    def _by_signs(self, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        """Label by the signs of the extreme eigenvalues at a critical point."""
        assert ends.low is not None
        assert ends.high is not None
        evidence = (*evidence, *self._curvature(ends))
        low, high, band = ends.low.value, ends.high.value, ends.band
        if _is_saddle(ends):
            return Verdict("saddle", True, True, None, evidence)
        if not ends.settled:
            need = f"not settled within {self.budget} products ({ends.status}); raise max_hvps"
            return _undetermined(need, *evidence)
        if low < -band and high < -band or low > band and high > band:
            label = "minimum" if low > band else "maximum"
            return self._extremum(label, ends, evidence)
        return Verdict("degenerate", False, False, None, (*evidence, _silent(ends)))

    def _extremum(self, label: str, ends: Ends, evidence: tuple[str, ...]) -> Verdict:
        strict = not self.op.objective.ignored
        if ends.complete:
            claim = f"all {ends.steps} eigenvalues have one sign"
            return Verdict(label, strict, True, None, (*evidence, claim))
        assert ends.low is not None
        assert ends.high is not None
        edge = ends.low.value if label == "minimum" else -ends.high.value
        allowed = max(ends.hidden - edge, ends.band)
        side = f"below {signed(-allowed, 2)}" if label == "minimum" else f"above {signed(allowed, 2)}"
        claim = (
            f"no eigenvalue {side} with probability {self.confidence:g} "
            f"(random start, {ends.steps} Lanczos steps)"
        )
        if allowed > self.negative_tol * ends.top:
            return _undetermined(f"{claim}; asked: {self.negative_tol:g}·‖H‖; raise max_hvps", *evidence)
        return Verdict(label, strict, False, self.confidence, (*evidence, claim))

    def _curvature(self, ends: Ends) -> tuple[str, ...]:
        """State the curvature with how it was confirmed."""
        assert ends.low is not None
        assert ends.high is not None
        sentences = [
            f"curvature from {signed(ends.low.value)} to {signed(ends.high.value)}, "
            f"zero band ±{number(ends.band, 2)}"
        ]
        for name, side in (("low", "lowest"), ("high", "highest")):
            probe = self.probes.get(name)
            if probe is not None and probe.confirmed_by:
                what = "differences of the loss" if probe.confirmed_by == "loss" else "differences of the slope"
                sentences.append(
                    f"{what} at ±{number(probe.radius, 2)} along the {side} direction: {signed(probe.measured)}"
                )
        return tuple(sentences)

    def _point(self, verdict: Verdict) -> CriticalPoint:
        ends, op = self.ends, self.op
        low, high = (None, None) if ends is None else (ends.low, ends.high)
        trusted = bool(self.probes.get("low") and self.probes["low"].confirmed_by)
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
            lowest=self._eigen(low, 1),
            highest=self._eigen(high, 0),
            index_at_least=ends.negatives if ends is not None and trusted else 0,
            zero_band=ends.band if ends is not None else math.nan,
            escape_direction=self._escape_direction(low) if trusted else None,
            evidence=(*verdict.evidence, *self.notes),
            num_hvps=self.spent,
            num_evaluations=op.objective.num_evaluations,
            size=op.size,
            dtype=np.dtype(op.dtype).name,
        )

    def _eigen(self, end: End | None, num_lowest: int) -> EigenResult:
        op, ends = self.op, self.ends
        rtol = 1e-3 if self.rtol is None else self.rtol
        if end is None or ends is None:
            return empty_result(op, self.spent, "lanczos", rtol, "nonfinite")
        good = end.residual <= rtol * ends.top
        early = "ended when the label was settled; rtol=… asks for more accuracy"
        return EigenResult(
            eigenvalues=np.array([end.value]),
            eigenvectors=tangent(
                op.layout, tuple(v[None] for v in end.vector), op.objective.rest, 1
            ),
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
        )

    def _escape_direction(self, low: End | None) -> PyTree | None:
        if low is None or self.ends is None or low.value >= -self.ends.band:
            return None
        slope = float(dot(self.op.gradient_vector, low.vector))
        sign = -float(np.sign(slope)) or self.probes["low"].downhill or _leading_sign(low.vector)
        return tangent(self.op.layout, scale(sign, low.vector), self.op.objective.rest)


def _is_saddle(ends: Ends) -> bool:
    assert ends.low is not None
    assert ends.high is not None
    return ends.low.value < -ends.band and ends.high.value > ends.band


def _leading_sign(vector: Vector) -> float:
    """Sign of the entry of largest magnitude: a convention for directions without a slope."""
    entries = flatten_rows(tuple(leaf[None] for leaf in vector))[0]
    return float(np.sign(entries[np.argmax(np.abs(entries))]))


def _undetermined(*evidence: str) -> Verdict:
    return Verdict("undetermined", False, False, None, evidence)


def _degenerate(*evidence: str) -> Verdict:
    return Verdict("degenerate", False, False, None, evidence)


def _silent(ends: Ends) -> str:
    if ends.spectrum is not None:
        count = int(np.sum(np.abs(ends.spectrum[0]) <= ends.band))
        return f"second order is silent along {count} of {len(ends.spectrum[0])} directions"
    return "second order is silent along at least one direction"


def _nonfinite(op: HessianOperator) -> str:
    """Name what is not finite at the parameters themselves."""
    where = first_nonfinite(op.layout, op.x)
    if where:
        return f"{where} holds a NaN or an infinity"
    if not math.isfinite(op.value):
        return f"the loss is {op.value} at these parameters"
    where = first_nonfinite(op.layout, op.gradient_vector)
    return f"the gradient with respect to {where} is not finite" if where else ""


def _no_product(ends: Ends) -> str:
    if ends.status == "interrupted":
        return "interrupted before the first product"
    return "a Hessian-vector product is not finite here, though loss and gradient are: no second derivative"


def _unstable(op: HessianOperator, ends: Ends, noise: ProductNoise) -> str:
    """Name the likely cause where products cannot be repeated."""
    worst = max(noise.largest, ends.asymmetry)
    if worst <= UNSTABLE * ends.top or worst <= float(jnp.finfo(op.dtype).tiny):
        return ""
    share = number(worst / ends.top if ends.top else math.inf, 2)
    if ends.asymmetry > noise.largest:
        return (
            f"products are not symmetric (by {share} of ‖H‖): the gradient is not that of one loss; "
            "a custom derivative, or a loss whose randomness depends on the parameters"
        )
    return (
        f"products change by {share} of ‖H‖ when the parameters move by one rounding: randomness in the "
        "loss (dropout key, data that change), a kink, or too little precision; fix the key and the data, "
        "or use float64"
    )

