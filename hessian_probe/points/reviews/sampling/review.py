"""Does the label hold for what the batches are a sample of?  If not, how many samples would settle it?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats
from scipy.stats import chi2

from hessian_probe.arrays import add_scaled, cast, dot, norm
from hessian_probe.operators.data import Batches
from hessian_probe.operators.per_batch import rayleigh_quotients
from hessian_probe.points.evidence import Reason
from hessian_probe.points.measurements import Measurements
from hessian_probe.points.reviews.sampling.noise import (
    Displacement,
    SamplingErrors,
    SplitHalf,
    displacement,
    held_out,
    held_out_slope,
    measure_gradient_noise,
    split_halves,
    steps_for_halves,
)
from hessian_probe.points.thresholds import (
    AIM,
    BATCHES,
    ENDS,
    FEWEST_BATCHES,
    GRADIENT_DRAWS,
    GRID_POINTS,
    LEAST_ERRORS,
    LOSS_SHARE,
    MODEL_SHARE,
    MOST_DATA,
    NOISE_SHARE,
    PLENTY,
    POWER,
    REST_PARTS,
    SAMPLING_HVPS,
    SURE,
)
from hessian_probe.points.verdict import Verdict, is_saddle
from hessian_probe.spectrum.standard_errors import Estimate, quantile, weighted_mean

# Higher order is seen on the mean of these data; another sample may have another one.
SILENT = Reason("higher_order_not_held_out")
DECIDED = ("saddle", "minimum", "maximum", "not_critical")


def applies(m: Measurements, verdict: Verdict) -> bool:
    """Whether the batches are a sample of more data, and there is something to check on them."""
    return m.problem is None and m.settings.sampled and m.op.objective.data.is_sequence


def review(m: Measurements, verdict: Verdict) -> Verdict:
    """Make the verdict one about what the batches are a sample of."""
    return SamplingReview(m, verdict).judge(verdict)


class SamplingReview:
    """Checks on the batches whether a verdict on their mean is one on what they are a sample of.

    Args:
        m: what was measured.
        verdict: the verdict on the mean.
    """

    def __init__(self, m: Measurements, verdict: Verdict) -> None:
        self.here, self.judged, self.line_checks = m.here, verdict.judged or m.here, m.line_checks
        self.level, self.rng, self.m = m.settings.confidence, m.rng, m
        self.data = m.op.objective.data
        self.times: list[tuple[float, float, float] | None] = []

    def judge(self, verdict: Verdict) -> Verdict:
        """Return the verdict as it holds for the whole, with the errors measured."""
        if self.data.count < FEWEST_BATCHES:
            return verdict.with_reasons(Reason("few_batches", least=FEWEST_BATCHES, count=self.data.count))
        if self.m.left < SAMPLING_HVPS:
            if verdict.label not in DECIDED:
                return verdict
            return verdict.withdrawn(Reason("no_products_for_batches"))
        op, extremes = self.here
        assert extremes.low is not None
        assert extremes.high is not None
        self.weights, self.quotients = rayleigh_quotients(op, (extremes.low.vector, extremes.high.vector))
        low, high = (weighted_mean(column, self.weights) for column in self.quotients.T)
        # The gradient's noise at the parameters is taken for that at the critical point beside them.
        self.step = None
        if self.judged.operator is not op:
            work = op.layout.work_dtypes
            self.step = add_scaled(cast(self.judged.operator.x, work), -1.0, cast(op.x, work))
        self.gradient_noise = measure_gradient_noise(op, self.judged.extremes, self.rng, self.step)
        self.slope = held_out_slope(op, self.gradient_noise)
        checks = {"saddle": self._saddle, "not_critical": self._slope}
        if verdict.label in DECIDED and not verdict.at_resolution:
            verdict = checks.get(verdict.label, self._extremum)(verdict)
        errors = SamplingErrors(low.error, high.error, self.gradient_noise.error)
        if self.times:
            errors = errors._replace(samples=self._samples(), batches=self._more_batches())
        return verdict._replace(sampling=errors)

    def _saddle(self, verdict: Verdict) -> Verdict:
        op, extremes = self.judged
        if not is_saddle(extremes):
            return verdict.withdrawn(SILENT)
        steps = steps_for_halves(op, extremes.steps, self.m.left)
        if steps == 0:
            return verdict.withdrawn(Reason("few_products_for_batches", left=self.m.left))
        found = held_out(op, steps, self.rng)
        if found is None:
            return verdict.withdrawn(Reason("half_product_nonfinite"))
        assert extremes.low is not None
        assert extremes.high is not None
        doubts, facts, needs = list[Reason](), list[Reason](), []
        for sign, halves, end in zip((-1.0, 1.0), found, (extremes.low, extremes.high), strict=True):
            shown, reason = self._shown(sign, halves, held=True)
            (facts if shown else doubts).append(reason)
            if not shown:
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
            return verdict.withdrawn(SILENT)
        weights, values = self.weights, self.quotients[:, column]
        if op is not self.here.operator:
            weights, rows = rayleigh_quotients(op, (end.vector,))
            values = rows[:, 0]
        halves = split_halves(values, weights)
        shown, reason = self._shown(sign, halves, held=False)
        if shown:
            return self._concluded(verdict, [], [reason])
        mean = sign * halves.both.value
        self._need_sign(mean, mean, halves.both)
        return self._concluded(verdict, [reason], [])

    def _shown(self, sign: float, halves: SplitHalf, *, held: bool) -> tuple[bool, Reason]:
        """Whether both halves show a sign of curvature (a saddle's on held-out batches); the evidence."""
        side = "lowest" if (sign < 0) == held else "highest"
        numbers = {"side": side} | _numbers(halves)
        if halves.show(sign, self.level, self.judged.extremes.band):
            return True, Reason("held_out_curvature" if held else "curvature_over_batches", **numbers)
        numbers["sign"] = "negative" if sign < 0 else "positive"
        return False, Reason(
            "held_out_curvature_noisy" if held else "curvature_over_batches_noisy", **numbers
        )

    def _concluded(self, verdict: Verdict, doubts: list[Reason], facts: list[Reason]) -> Verdict:
        """Add where the critical point of the whole may be, and settle the confidence."""
        change = self._change()
        limit = LOSS_SHARE * change
        moved = displacement(*self.judged, self.gradient_noise, self.level, limit, self.m.left)
        if not moved.enough:
            few = Reason("few_products_for_shift", left=self.m.left)
            return verdict.withdrawn(few, *facts)
        seen = model = 0.0
        if self.step is not None:
            # What the step changes of the loss, from the slopes at both its ends; and eigenvector by
            # eigenvector, as far as these are known: there rises and falls do not cancel.
            ends = (place.operator.gradient_vector for place in (self.here, self.judged))
            seen = 0.5 * abs(sum(float(dot(self.step, gradient)) for gradient in ends))
            values, _, curvatures = self._along()
            model = float(np.sum(0.5 * np.abs(values * (values / curvatures))))
        linear = quantile(self.level, self.gradient_noise.freedom) * self.gradient_noise.step_error
        most = seen + linear + moved.change
        shift = {"noise": self.gradient_noise.error, "most": most, "seen": seen, "limit": limit}
        if most <= limit and model**0.5 + moved.change**0.5 <= (MODEL_SHARE * change) ** 0.5:
            facts.append(Reason("shift", **shift))
        else:
            doubts.append(Reason("shift_too_large", **shift))
            self._need_place(moved)
        if doubts:
            return verdict.withdrawn(*self._doubts(doubts), *facts)
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
            return verdict.withdrawn(doubt, *fitted)
        if share < 1.0:
            mean = self.slope.both
            self._need_sign(mean.value, mean.value, mean)
        else:
            self._need_signs()
        self._need_place(displacement(*self.here, self.gradient_noise, self.level, math.inf, self.m.left))
        return verdict.withdrawn(*self._doubts([doubt]))

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
        along = np.array(self._along())
        if self.judged.extremes.spectrum is None:  # what is not known of the gradient: as equal parts
            wholes = float(norm(self.here.operator.gradient_vector)), self.gradient_noise.error
            left = [w**2 - float(np.sum(np.square(p))) for w, p in zip(wholes, along, strict=False)]
            slope, error = np.sqrt(np.maximum(left, 0.0) / REST_PARTS)
            if moved.change > 0 and error > 0:
                curvature = 0.5 * REST_PARTS * error * (error / moved.change)
                along = np.c_[along, np.tile([[slope], [error], [curvature]], REST_PARTS)]
        limits = LOSS_SHARE * self._change(), MODEL_SHARE * self._change(), NOISE_SHARE
        freedom = self.gradient_noise.freedom
        times = times_for_place(along[0], along[1], along[2], limits, self.level, freedom)
        if times is None or freedom <= 0:
            self.times.append(None)
        else:  # it grows like the square of the errors
            ends = freedom / chi2.ppf([ENDS, 1.0 - ENDS], freedom)
            self.times.append((times * float(ends[0]), times, times * float(ends[1])))

    def _along(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Slopes, their errors, and curvatures along the known eigenvectors beyond the zero band."""
        noise = self.gradient_noise
        beyond = np.abs(noise.curvatures) > self.judged.extremes.band
        values, errors = np.array([(each.value, each.error) for each in noise.along])[beyond].T
        return values, errors, noise.curvatures[beyond]

    def _need_sign(self, first: float, second: float, mean: Estimate, signs: int = 1) -> None:
        """Ask for a sign of a mean between the value on held-out batches and that on the sample."""
        low, high, bias = min(first, second), max(first, second), max(first - second, 0.0)
        times = times_the_data(low, high, mean.error, mean.freedom, self.level, bias=bias, signs=signs)
        ends = times_between(low, high, mean.error, mean.freedom, self.level)
        if times is None or ends is None:
            self.times.append(None)
        else:
            self.times.append((min(ends[0], times), times, max(ends[1], times)))

    def _doubts(self, doubts: list[Reason]) -> list[Reason]:
        samples, more = self._samples(), self._more_batches()
        if more is not None:
            doubts.append(Reason("more_batches", count=self.data.count, batches=more))
        if samples is None:
            return [*doubts, Reason("samples_unknown")]
        low, about, high = samples
        stated = {"power": f"{POWER:g}", "least": f"{LEAST_ERRORS:g}", "batches": self.data.count}
        numbers = {"samples": about, "low": low, "high": high, "total": self.data.total}
        return [*doubts, Reason("samples_needed", **numbers, **stated)]

    def _samples(self) -> tuple[int, int, int] | None:
        """Samples from, about and to; None where the batches are too few, or too noisy, to estimate that."""
        if self.data.count < BATCHES or any(times is None for times in self.times):
            return None
        columns = zip(*(times for times in self.times if times is not None), strict=True)
        low, about, high = (rounded_up(max(*column, 1.0) * self.data.total) for column in columns)
        return low, about, high

    def _more_batches(self) -> int | None:
        """Into how many batches the same data should be cut first; None where more hardly help."""
        counted = not isinstance(self.data.source, Batches)
        most = min(PLENTY, int(self.data.total) // 2) if counted else PLENTY
        return most if most > self.data.count else None


def _numbers(halves: SplitHalf) -> dict[str, Any]:
    """Means and errors as the sentences name them."""
    found = zip(("", "even", "odd"), (halves.both, halves.even, halves.odd), strict=True)
    numbers: dict[str, Any] = {}
    for half, mean in found:
        numbers |= {half or "value": mean.value, f"{half}_error".strip("_"): mean.error}
    return numbers


def times_the_data(
    low: float,
    high: float,
    error: float,
    freedom: float,
    level: float,
    *,
    bias: float = 0.0,
    signs: int = 1,
) -> float | None:
    """How many times the data a sign needs to be shown by both halves.

    The unknown mean is taken as anywhere between `low` and `high`, Gaussian about it with the error of
    the sample, whose own uncertainty is that of a χ² variable; the probability that both halves of r
    times the data show its sign is averaged over that ("assurance") and r is raised until it is AIM, or
    until the least mean is seen with probability SURE.

    Args:
        low: lowest value that the sample supports.
        high: highest.
        error: standard error at the present number of samples.
        freedom: degrees of freedom of the error.
        level: probability with which each half must show the sign.
        bias: by how much the sample's lowest eigenvalue may lie below the true one, now; it falls at
            least like the square root of the number of samples, and delays a positive sign.
        signs: how many signs must be shown together.

    Returns:
        r, at least 1, or None above MOST_DATA.

    Source:
        A. O'Hagan, J. W. Stevens and M. J. Campbell, Pharmaceutical Statistics 4, 2005,
        doi:10.1002/pst.175.
    """
    if not math.isfinite(error) or freedom <= 0:
        return None
    grid = (np.arange(GRID_POINTS) + 0.5) / GRID_POINTS
    spread = error * np.sqrt(freedom / chi2.ppf(grid, freedom))[:, None, None]
    centers = np.linspace(low, high, 5)[None, :, None] if high > low else np.array([[[low]]])
    means = centers + spread * scipy.stats.norm.ppf(grid)[None, None, :]

    if error == 0.0:
        return 1.0
    threshold = quantile(level, max(0.5 * (freedom - 1.0), BATCHES / 2 - 1.0))

    def seen(means: np.ndarray, times: float) -> float:
        """Mean probability that both halves show the sign of a mean."""
        size = np.where(means > 0, means - bias / math.sqrt(times), -means)
        return float(
            np.mean(np.square(scipy.stats.norm.cdf(size / (spread * math.sqrt(2.0 / times)) - threshold)))
        )

    found = [
        _smallest(lambda times: seen(means, times), 1.0 - (1.0 - AIM) / signs),
        _smallest(lambda times: seen(np.array(LEAST_ERRORS * error), times), 1.0 - (1.0 - SURE) / signs),
    ]
    return min((times for times in found if times is not None), default=None)


def times_between(
    low: float, high: float, error: float, freedom: float, level: float
) -> tuple[float, float] | None:
    """Multiples of the data between which a sign needs them: for the largest and the least mean.

    The arguments are those of `times_the_data`; the means are those of an interval, ENDS of the probability
    beyond either end.

    Returns:
        Both ends; the upper one is at most that of a mean of LEAST_ERRORS errors.  None without an error.
    """
    # In units of the error, which is uncertain itself by 1/√(2·freedom) of it.
    unsure = math.hypot(error, max(abs(low), abs(high)) / math.sqrt(2.0 * max(freedom, 1e-300)))
    width = quantile(1.0 - ENDS, freedom) * unsure
    if not math.isfinite(width) or error == 0.0:
        return None if error else (1.0, 1.0)
    least, most = low - width, high + width
    near = max(min(abs(least), abs(most)) if least * most > 0 else 0.0, LEAST_ERRORS * error)
    threshold = quantile(level, max(0.5 * (freedom - 1.0), BATCHES / 2 - 1.0))
    seen = error * (threshold + float(scipy.stats.norm.ppf(math.sqrt(POWER))))
    far = max(abs(least), abs(most))
    return max(2.0 * (seen / far) ** 2, 1.0), max(2.0 * (seen / near) ** 2, 1.0)


def times_for_place(
    slopes: np.ndarray,
    errors: np.ndarray,
    curvatures: np.ndarray,
    limits: tuple[float, float, float],
    level: float,
    freedom: float,
) -> float | None:
    """Multiple of the data that shows whether a critical point is near.

    What there is in all has slopes within the errors of the sample's; r times the data show these to
    errors smaller by √r.  The critical point is then near with its displacement by noise added, or far with
    little noise in the gradient, or neither; r is raised until it is one of both with probability AIM,
    whatever share of the gradient, within two of its errors, is noise.

    Args:
        slopes: slopes along eigenvectors, shape (m,), in loss / params.
        errors: their standard errors now.
        curvatures: curvatures along them, none zero.
        limits: the loss to go, the same with rises and falls added, and the share of noise in the squared
            gradient that are allowed.
        level: probability with which a critical point must be near.
        freedom: degrees of freedom of the errors.

    Returns:
        r, at least about 1, or None above MOST_DATA.
    """
    rng = np.random.default_rng(0)  # the same draws for every r
    wide = errors * np.sqrt(freedom / rng.chisquare(freedom, (GRADIENT_DRAWS, 1)))
    first = wide * rng.standard_normal((GRADIENT_DRAWS, len(slopes)))
    again = wide * rng.standard_normal((GRADIENT_DRAWS, len(slopes)))
    loss, model, noise = limits
    margin = quantile(level, max(freedom, BATCHES - 1.0))

    doubtful = 2.0 * float(np.linalg.norm(errors)) >= np.array([1.0, 0.5, 0.0]) * np.linalg.norm(slopes)
    shares = np.array([0.0, 0.5, 1.0])[doubtful]

    def told(times: float) -> float:
        """Share of the draws in which it is told, for the least favourable share of the gradient."""
        return min(told_of(share * slopes + math.sqrt(share) * first, times) for share in shares)

    def told_of(true: np.ndarray, times: float) -> float:
        seen, error = true + again / math.sqrt(times), wide / math.sqrt(times)
        parts = 0.5 * seen * (seen / curvatures)
        moved = 0.5 * np.sum(error * (error / np.abs(curvatures)), axis=1)
        moved *= chi2.ppf(level, len(slopes)) / len(slopes)
        ahead = np.abs(np.sum(parts, axis=1))
        linear = margin * np.linalg.norm(error * (seen / curvatures), axis=1)
        in_all = np.sum(np.abs(parts), axis=1)
        near = (ahead + linear + moved <= loss) & (np.sqrt(in_all) + np.sqrt(moved) <= math.sqrt(model))
        far = (ahead > loss) | (in_all > model)
        far &= np.sum(np.square(error), axis=1) <= noise * np.sum(np.square(seen), axis=1)
        return float(np.mean(near | far))

    return _smallest(told, AIM)


def _smallest(probability: Callable[[float], float], wanted: float) -> float | None:
    """Smallest multiple of the data at which a growing probability is as wanted; None above MOST_DATA."""
    lower, upper = 0.0, math.log(MOST_DATA)
    if probability(MOST_DATA) < wanted:
        return None
    while upper - lower > 0.01:
        middle = 0.5 * (lower + upper)
        lower, upper = (middle, upper) if probability(math.exp(middle)) < wanted else (lower, middle)
    return math.exp(upper)


def rounded_up(samples: float) -> int:
    """Two significant digits, upwards."""
    unit = 10.0 ** max(math.floor(math.log10(samples)) - 1, 0)
    return int(math.ceil(samples / unit) * unit)
