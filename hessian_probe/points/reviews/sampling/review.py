"""Does the label hold for what the batches are a sample of?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hessian_probe.arrays import norm
from hessian_probe.operators.per_batch import rayleigh_quotients
from hessian_probe.points.evidence import Reason
from hessian_probe.points.extremes import Point
from hessian_probe.points.line_check import LineCheck
from hessian_probe.points.locate import LOSS_SHARE, MODEL_SHARE
from hessian_probe.points.reviews.sampling.gradient_noise import (
    Displacement,
    displacement,
    held_out_slope,
    loss_to_go,
    measure_gradient_noise,
    model_change,
    newton_displacement,
)
from hessian_probe.points.reviews.sampling.sample_size import (
    BATCHES,
    LEAST,
    POWER,
    rounded_up,
    times_for_place,
    times_the_data,
)
from hessian_probe.points.reviews.sampling.split_half import (
    SplitHalf,
    held_out,
    split_halves,
    steps_for_halves,
)
from hessian_probe.points.second_order import Verdict, is_saddle, undetermined
from hessian_probe.spectrum.standard_errors import Estimate, quantile, weighted_mean

# Two batches in each half are the fewest that show how much a half scatters.
FEWEST_BATCHES = 4
# Products for the standard errors of both extreme eigenvalues, and of one at the critical point.
PRODUCTS = 3
# A gradient too large to be near a critical point is believed where noise makes at most this share of
# its square: its length is then known to a fifth or so, while what counts as near on plateaus and far on
# slopes differs by a factor of four in the square (`points/locate.py`).
NOISE_SHARE = 0.05
# Parts in which the gradient outside both extreme eigenvectors is drawn.
REST = 8
DECIDED = ("saddle", "minimum", "maximum", "not_critical")


class SamplingErrors(NamedTuple):
    """Errors over the data; None where they were not measured.

    Attributes:
        low: standard error of the lowest eigenvalue at the parameters.
        high: of the highest.
        gradient: root mean square length of the gradient's error.
        samples: samples, in all, that would settle an undetermined label.
    """

    low: float | None = None
    high: float | None = None
    gradient: float | None = None
    samples: int | None = None


class SamplingReview:
    """Checks on the batches whether a verdict on their mean is one on what they are a sample of.

    Args:
        here: the parameters.
        judged: the place that the verdict is about.
        line_checks: what the loss shows along both extreme eigenvectors.
        confidence: probability with which a sign must hold.
        rng: source of start vectors.
        left: products that may still be spent.
    """

    def __init__(
        self,
        here: Point,
        judged: Point,
        line_checks: Mapping[str, LineCheck],
        confidence: float,
        rng: np.random.Generator,
        left: Callable[[], int],
    ) -> None:
        self.here, self.judged, self.line_checks = here, judged, line_checks
        self.level, self.rng, self.left = confidence, rng, left
        self.data = here.operator.objective.data
        self.times: list[float | None] = []

    def judge(self, verdict: Verdict) -> tuple[Verdict, SamplingErrors]:
        """Return the verdict as it holds for the whole, with the errors measured."""
        if self.data.count < FEWEST_BATCHES:
            few = Reason("few_batches", least=FEWEST_BATCHES, count=self.data.count)
            return verdict.with_reasons(few), SamplingErrors()
        if self.left() < PRODUCTS:
            if verdict.label not in DECIDED:
                return verdict, SamplingErrors()
            return undetermined(Reason("no_products_for_batches"), *verdict.evidence), SamplingErrors()
        op, extremes = self.here
        assert extremes.low is not None
        assert extremes.high is not None
        self.weights, self.quotients = rayleigh_quotients(op, (extremes.low.vector, extremes.high.vector))
        low, high = (weighted_mean(column, self.weights) for column in self.quotients.T)
        # The gradient's noise at the parameters is taken for that at the critical point beside them.
        self.step = newton_displacement(self.here, self.judged)
        self.gradient_noise = measure_gradient_noise(op, self.judged.extremes, self.rng, self.step)
        self.slope = held_out_slope(op, self.gradient_noise)
        checks = {"saddle": self._saddle, "not_critical": self._slope}
        if verdict.label in DECIDED:
            verdict = checks.get(verdict.label, self._extremum)(verdict)
        return verdict, SamplingErrors(low.error, high.error, self.gradient_noise.error, self._samples())

    def _saddle(self, verdict: Verdict) -> Verdict:
        op, extremes = self.judged
        if not is_saddle(extremes):
            return self._silent(verdict)
        steps = steps_for_halves(op, extremes.steps, self.left())
        if steps == 0:
            return undetermined(Reason("few_products_for_batches", left=self.left()), *verdict.evidence)
        found = held_out(op, steps, self.rng)
        if found is None:
            return undetermined(Reason("half_product_nonfinite"), *verdict.evidence)
        assert extremes.low is not None
        assert extremes.high is not None
        doubts, facts, needs = [], [], []
        for side, sign, halves, end in zip(
            ("lowest", "highest"), (-1.0, 1.0), found, (extremes.low, extremes.high), strict=True
        ):
            shown = {"side": side} | _numbers(halves)
            if halves.show(sign, self.level, extremes.band):
                facts.append(Reason("held_out_curvature", **shown))
            else:
                what = "negative" if sign < 0 else "positive"
                doubts.append(Reason("held_out_curvature_noisy", sign=what, **shown))
                needs.append((-sign * halves.both.value, -sign * end.value, halves.both))
        for need in needs:
            self._need_sign(*need, signs=len(needs))
        return self._concluded(verdict, doubts, facts)

    def _extremum(self, verdict: Verdict) -> Verdict:
        op, extremes = self.judged
        column, sign = (0, 1.0) if verdict.label == "minimum" else (1, -1.0)
        end = (extremes.low, extremes.high)[column]
        assert end is not None
        if sign * end.value <= extremes.band:
            return self._silent(verdict)
        weights, values = self.weights, self.quotients[:, column]
        if op is not self.here.operator:
            weights, rows = rayleigh_quotients(op, (end.vector,))
            values = rows[:, 0]
        halves = split_halves(values, weights)
        side, what = ("lowest", "positive") if sign > 0 else ("highest", "negative")
        shown = {"side": side} | _numbers(halves)
        if halves.show(sign, self.level, extremes.band):
            return self._concluded(verdict, [], [Reason("curvature_over_batches", **shown)])
        mean = sign * halves.both.value
        self._need_sign(mean, mean, halves.both)
        return self._concluded(verdict, [Reason("curvature_over_batches_noisy", sign=what, **shown)], [])

    def _silent(self, verdict: Verdict) -> Verdict:
        """Higher order is seen on the mean of these data; another sample may have another one."""
        return undetermined(Reason("higher_order_not_held_out"), *verdict.evidence)

    def _concluded(self, verdict: Verdict, doubts: list[Reason], facts: list[Reason]) -> Verdict:
        """Add where the critical point of the whole may be, and settle the confidence."""
        change = self._change()
        limit = LOSS_SHARE * change
        moved = displacement(*self.judged, self.gradient_noise, self.level, limit, self.left())
        if not moved.enough:
            few = Reason("few_products_for_shift", left=self.left())
            return undetermined(few, *facts, *verdict.evidence)
        seen = loss_to_go(self.here, self.judged, self.step)
        linear = quantile(self.level, self.gradient_noise.freedom) * self.gradient_noise.step_error
        within = seen + linear + moved.change <= limit
        model = model_change(self.gradient_noise, self.judged, self.step) ** 0.5 + moved.change**0.5
        most = seen + linear + moved.change
        shift = {"noise": self.gradient_noise.error, "most": most, "seen": seen, "limit": limit}
        if within and model <= (MODEL_SHARE * change) ** 0.5:
            facts.append(Reason("shift", **shift))
        else:
            doubts.append(Reason("shift_too_large", **shift))
            self._need_place(moved)
        if doubts:
            return undetermined(*self._doubts(doubts), *facts, *verdict.evidence)
        missed = 1.0 - self.level + (0.0 if verdict.confidence is None else 1.0 - verdict.confidence)
        return verdict._replace(
            certified=False,
            confidence=max(1.0 - missed, 0.0),
            evidence=(*verdict.evidence, *facts, *self._fitted()),
        )

    def _change(self) -> float:
        """What the curvature changes the loss by over the distance along which it was seen to hold."""
        both = is_saddle(self.judged.extremes)
        return (min if both else max)((check.change for check in self.line_checks.values()), default=0.0)

    def _fitted(self) -> tuple[Reason, ...]:
        """Say so where the halves' gradients oppose each other: by chance they would not."""
        slope = self.slope
        if not slope.both.beyond(-1.0, self.level):
            return ()
        return (Reason("fitted", **_numbers(slope)),)

    def _slope(self, verdict: Verdict) -> Verdict:
        """A gradient too large must be so for the whole."""
        length, noise = float(norm(self.here.operator.gradient_vector)), self.gradient_noise.error
        share = (noise / length) ** 2 if length > 0 else 1.0
        without = length * max(1.0 - share, 0.0) ** 0.5
        shown = {"gradient": length, "without": without, "noise": noise} | _numbers(self.slope)
        if self.slope.show(1.0, self.level) and share <= NOISE_SHARE:
            return verdict.with_reasons(Reason("gradient_over_batches", **shown))
        doubt = Reason("gradient_over_batches_noisy", **shown)
        fitted = self._fitted()
        if fitted:
            return undetermined(doubt, *fitted, *verdict.evidence)
        if share < 1.0:
            mean = self.slope.both
            self._need_sign(mean.value, mean.value, mean)
        else:
            self._need_signs()
        self._need_place(displacement(*self.here, self.gradient_noise, self.level, math.inf, self.left()))
        return undetermined(*self._doubts([doubt]), *verdict.evidence)

    def _need_signs(self) -> None:
        """Where all of the gradient is noise: what a label of the critical point would need."""
        for column in self.quotients.T:
            halves = split_halves(column, self.weights)
            if not halves.show(float(np.sign(halves.both.value)), self.level):
                self._need_sign(halves.both.value, halves.both.value, halves.both, signs=2)

    def _need_place(self, moved: Displacement) -> None:
        """Ask for the number of samples that shows whether a critical point is near."""
        if moved.flat or not moved.enough:
            self.times.append(None)
            return
        limits = LOSS_SHARE * self._change(), MODEL_SHARE * self._change(), NOISE_SHARE
        along = self._components(moved)
        self.times.append(times_for_place(*along, limits, self.level, self.gradient_noise.freedom))

    def _components(self, moved: Displacement) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes, errors and curvatures along eigenvectors; what is not known of them as REST equal parts."""
        gradient_noise = self.gradient_noise
        beyond = np.abs(gradient_noise.curvatures) > self.judged.extremes.band
        values, errors = np.array([(each.value, each.error) for each in gradient_noise.along])[beyond].T
        curvatures = gradient_noise.curvatures[beyond]
        if self.judged.extremes.spectrum is not None:
            return values, errors, curvatures
        length = float(norm(self.here.operator.gradient_vector))
        slope, error = (
            math.sqrt(max(whole**2 - float(np.sum(np.square(part))), 0.0) / REST)
            for whole, part in ((length, values), (gradient_noise.error, errors))
        )
        if not (moved.change > 0 and error > 0):
            return values, errors, curvatures
        curvature = 0.5 * REST * error * (error / moved.change)
        return (
            np.r_[values, np.full(REST, slope)],
            np.r_[errors, np.full(REST, error)],
            np.r_[curvatures, np.full(REST, curvature)],
        )

    def _need_sign(self, first: float, second: float, mean: Estimate, signs: int = 1) -> None:
        """Ask for a sign of a mean between the value on held-out batches and that on the sample."""
        low, high, bias = min(first, second), max(first, second), max(first - second, 0.0)
        error, freedom = mean.error, mean.freedom
        self.times.append(times_the_data(low, high, error, freedom, self.level, bias=bias, signs=signs))

    def _doubts(self, doubts: list[Reason]) -> list[Reason]:
        samples = self._samples()
        if samples is None:
            return [*doubts, Reason("samples_unknown")]
        batches = max(self.data.count, BATCHES)
        needed = Reason(
            "samples_needed",
            samples=samples,
            total=self.data.total,
            batches=batches,
            power=f"{POWER:g}",
            least=f"{LEAST:g}",
        )
        return [*doubts, needed]

    def _samples(self) -> int | None:
        if not self.times or any(times is None for times in self.times):
            return None
        return rounded_up(max(max(t for t in self.times if t is not None), 1.0) * self.data.total)


def _numbers(halves: SplitHalf) -> dict[str, Any]:
    """Means and errors as the sentences name them."""
    even, odd, both = halves
    return {
        "value": both.value,
        "error": both.error,
        "even": even.value,
        "even_error": even.error,
        "odd": odd.value,
        "odd_error": odd.error,
    }
