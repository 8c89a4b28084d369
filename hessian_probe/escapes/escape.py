"""Leave a point along negative curvature, a descent of higher order or on a sphere; prove the lower loss."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree, Vector, add_scaled, cast, from_tangent, merge, norm, scale
from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.escapes.result import Escape
from hessian_probe.escapes.thresholds import (
    BENT,
    LEAST_SHARE,
    LINE_STEPS,
    LONGEST,
    MAX_CALLS,
    REFINEMENTS,
    SETTLING,
    WORTH,
)
from hessian_probe.operators.objective import Objective
from hessian_probe.points.classify import classify
from hessian_probe.points.preconditions import FAULTS
from hessian_probe.points.result import CriticalPoint
from hessian_probe.points.rounding import decrease_margin
from hessian_probe.points.sphere_search import SearchResult, moved_by, radii_tried, search_on_spheres
from hessian_probe.points.verdict import was_interrupted
from hessian_probe.results import number


def escape(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    key: jax.Array | None = None,
    point: CriticalPoint | None = None,
    max_hvps: int | None = None,
    null_space: PyTree | None = None,
    progress: Callable[[str], None] | None = None,
) -> Escape:
    """Find a lower loss that the gradient does not reach by itself, or say that there is nothing to escape.

    The direction comes from the classification.  Both signs are tried, the step length is searched on the
    true loss, and the step is accepted only if the loss falls beyond rounding errors, below the loss of the
    critical point itself: a descent from there cannot return to it.  Where second order shows no descent but
    higher order does (a non-strict saddle), the search continues from the lower point that the
    classification found, `point.descent`, because the path there may be curved.

    What the slope gives anyway is no escape: line searches along the gradient show how much that is
    (`gain_of_slope`), and an escape gains at least as much again.  At the plateaus of deep networks curvature
    shows little, so the loss is searched at a finite distance too: weights are displaced by as much as an
    initialiser draws, and gradient steps lower the loss along the spheres of these displacements.  The lower
    point is taken.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: pytree; its floating-point arrays are the variables, unless `trainable` says otherwise.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        key: random key; None means `jax.random.key(0)`.
        point: a classification of these very parameters, which then need not be classified again.
        max_hvps: products allowed for the classification; with fewer than it needs (7, or 0) only
            spheres are searched.
        null_space: passed on to `hp.classify`.
        progress: called with a line of text during the search.

    Returns:
        Escape; its `params` are never worse than what came in.  Ctrl-C returns the best step so far.

    Raises:
        TypeError: `loss` or `data` are of the wrong kind.
        ValueError: `point` was made at other parameters or for another loss.

    Cost:
        The classification (about a dozen products at a saddle) and 24 to 40 evaluations of loss and
        slope along the line; as many again where higher order shows the descent, and up to
        three times as many for the slope.  Spheres take 28 to 84 gradients, a batch each.

    Source:
        Negative-curvature step with a search on the loss: J. J. Moré and D. C. Sorensen,
        Math. Programming 16, 1979, doi:10.1007/BF01582091.

    Example:
        >>> loss = lambda p: 0.25 * p[0] ** 4 - 0.5 * p[0] ** 2 + p[1] ** 2
        >>> move = escape(loss, jnp.zeros(2))  # a saddle; the minima are at (±1, 0)
        >>> move.status, round(move.loss_after, 2), round(move.distance, 2)
        ('escaped', -0.25, 1.0)
    """
    if point is not None and not isinstance(point, CriticalPoint):
        raise TypeError(f"point must be made by hp.classify; got {type(point).__name__}")
    classified = point is None
    if point is None:
        given: dict[str, Any] = {"max_hvps": max_hvps, "null_space": null_space, "progress": progress}
        point = classify(loss, params, data, trainable=trainable, key=key, **given)
    objective = Objective(loss, params, data, trainable=trainable)
    if classified and was_interrupted(point):
        reason = EscapeReason("not_classified", reason=point.evidence[0])
        return Escape.of(point, "undetermined", params, point.loss, reason)
    try:
        return _search(point, objective, params, jax.random.key(0) if key is None else key, progress)
    except KeyboardInterrupt:
        reason = EscapeReason("interrupted")
        return Escape.of(point, "undetermined", params, point.loss, reason, cost=objective.cost)


def _search(
    point: CriticalPoint,
    objective: Objective,
    params: PyTree,
    key: jax.Array,
    progress: Callable[[str], None] | None,
) -> Escape:
    """Search along what is known of the point, else on spheres, and prove what was found."""
    before = objective.value(objective.variables)
    _check_point(point, objective, before)
    misled = point.label == "undetermined" and point.reasons[0].startswith("null_space")
    said = zip(point.reasons, point.evidence, strict=True)
    told = tuple(EscapeReason("derivative", reason=text) for code, text in said if code in FAULTS)
    if (point.label == "minimum" and point.strict) or misled or not math.isfinite(before):
        status, reason = _no_direction(point)
        return Escape.of(point, status, params, before, reason, cost=objective.cost)
    margin = decrease_margin(objective, before)
    known, lowest, ended = _along_known(point, objective, before, margin)
    floor = before if math.isnan(point.critical_loss) else min(before, point.critical_loss)
    good = known is not None and lowest < floor - margin
    if not ended and not good:
        raise KeyboardInterrupt
    settled, slope, found = objective.variables, 0.0, None
    # Code of one's own may refuse parameters that are far away.
    if ended and not objective.facts.callback:
        try:
            if point.distance != 0:  # at a critical point, or a kink, a gradient is no slope
                settled, slope = _settle(objective, before, margin)
            least = max(margin, slope)  # with what the slope gained, twice that
            found = search_on_spheres(objective, settled, key, enough=least)
        except KeyboardInterrupt:
            if not good:
                raise
    end, on_sphere = known, False
    if found is not None and found.step is not None:
        there = moved_by(objective, settled, found.step)
        after = objective.value(there)
        # A step along one direction is the simpler one, unless it gains clearly less.
        if math.isfinite(after) and (known is None or not lowest - LEAST_SHARE * (before - lowest) <= after):
            end, lowest, on_sphere = _LineEnd(there), after, True
    if end is not None and before - lowest >= WORTH * slope and lowest < floor - margin:
        sphere = found if on_sphere else None
        if progress is not None:
            progress(f"best step: loss {number(lowest, 6)}")
        return _escaped(point, objective, before, lowest, end, slope, sphere, told)
    status, reason = _no_direction(point)
    if known is not None:
        status, least = "no_decrease", max(margin, slope)
        reason = EscapeReason("no_decrease", floor=floor, margin=least, lowest=lowest)
    if found is not None:
        told = (EscapeReason("nothing_found_on_spheres", radii=radii_tried()), *told)
    return Escape.of(point, status, params, before, reason, *told, slope=slope, cost=objective.cost)


def _along_known(
    point: CriticalPoint, objective: Objective, before: float, margin: float
) -> tuple[_LineEnd | None, float, bool]:
    """Return where the lower search along what is known ended, or None; the loss; False for Ctrl-C."""
    ends = []
    if point.escape_direction is not None:
        ends.append(_straight(objective, point, before, margin))
    ended = all(end.ended for end in ends)
    if point.descent is not None and ended:
        move = from_tangent(objective.layout, point.descent, "point.descent")
        there = moved_by(objective, objective.variables, move)
        value, gradient = objective.value_and_gradient(there)
        ends.append(_LineEnd(_downhill(objective, there, value, gradient, margin, float(norm(move)))[0]))
    if not ends:
        return None, before, True
    values = [objective.value(end.moved) for end in ends]
    lowest, end = min(
        zip(values, ends, strict=True), key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0]
    )
    return end, lowest, ended


def _settle(objective: Objective, before: float, margin: float) -> tuple[Vector, float]:
    """Return where SETTLING line searches along the gradient end, and what they gained.

    A step along which the loss bends down is none by the slope: it ends before that.
    """
    x, value = objective.variables, before
    length = max(float(norm(cast(x, objective.layout.work_dtypes))), 1.0)
    for _ in range(SETTLING):
        gradient = objective.value_and_gradient(x)[1]
        there, best = _downhill(objective, x, value, gradient, margin, length)
        # Where the gradient is zero or not finite, nothing falls.
        if not margin < value - best.value <= BENT * float(norm(gradient)) * abs(best.length):
            break
        x, value, length = there, best.value, max(2 * abs(best.length), 1e-3 * length)
    return x, max(before - value, 0.0)


def _downhill(
    objective: Objective, x: Vector, value: float, gradient: Vector, margin: float, length: float
) -> tuple[Vector, LineStep]:
    """Search along the gradient, if it is finite; the variables where that ends, and the step."""
    steepness, layout = float(norm(gradient)), objective.layout
    if not (math.isfinite(value) and 0 < steepness < math.inf):
        return x, LineStep(0.0, value)
    downhill = scale(-1.0 / steepness, gradient)
    best = LineSearch(objective, x, downhill, value, margin, False).run(length)
    return cast(add_scaled(cast(x, layout.work_dtypes), best.length, downhill), layout.dtypes), best


def _escaped(
    point: CriticalPoint,
    objective: Objective,
    before: float,
    after: float,
    end: _LineEnd,
    slope: float,
    sphere: SearchResult | None,
    told: tuple[EscapeReason, ...],
) -> Escape:
    """Say what a step gained, and why no descent returns from there."""
    gain, work = before - after, objective.layout.work_dtypes
    move = add_scaled(cast(end.moved, work), -1.0, cast(objective.variables, work))
    distance = float(norm(move)) if math.isnan(end.step) else abs(end.step)
    fell: dict[str, Any] = {"gain": gain, "distance": distance}
    if sphere is not None:
        reasons = [EscapeReason("fell_on_sphere", **fell, radius=sphere.radius, slope=slope)]
    elif point.descent is not None:
        reasons = [EscapeReason("fell_by_higher_order", **fell)]
    elif math.isnan(end.predicted):
        reasons = [EscapeReason("fell", **fell)]
    else:
        reasons = [EscapeReason("fell_by_model", **fell, predicted=before - end.predicted)]
    if sphere is None and math.isfinite(point.critical_loss):
        below = min(before, point.critical_loss) - after
        reasons.append(EscapeReason("below_critical_point", below=below))
    elif sphere is None:
        reasons.append(EscapeReason("from_no_critical_point", label=point.label.replace("_", " ")))
    params = merge(objective.layout, end.moved, objective.non_variables)
    still = Escape.of(point, "escaped", params, before, *reasons, *told, slope=slope, cost=objective.cost)
    return dataclasses.replace(
        still,
        loss_after=after,
        gain=gain if sphere is None else sphere.gain + slope,
        distance=distance,
        step=end.step,
        predicted=end.predicted,
    )


class _LineEnd(NamedTuple):
    """Where a search ended: the variables, the signed step if straight, and the loss predicted there.

    `ended` is False where Ctrl-C ended it: the best step so far.
    """

    moved: Vector
    step: float = math.nan
    predicted: float = math.nan
    ended: bool = True


def _straight(objective: Objective, point: CriticalPoint, before: float, margin: float) -> _LineEnd:
    """Search along the escape direction."""
    layout = objective.layout
    direction = from_tangent(layout, point.escape_direction, "point.escape_direction")
    work = cast(objective.variables, layout.work_dtypes)
    search = LineSearch(objective, objective.variables, direction, before, margin, point.distance == 0)
    ended = True
    try:
        search.run(max(float(norm(work)), 1.0))
    except KeyboardInterrupt:
        if search.best.length == 0:
            raise
        ended = False
    best = search.best
    _, slopes = objective.line(objective.variables, direction, np.zeros(1))
    known = point.descent is None and len(point.lowest.eigenvalues) > 0
    curvature = float(point.lowest.eigenvalues[0]) if known else math.nan
    predicted = before + float(slopes[0]) * best.length + 0.5 * curvature * best.length**2
    return _LineEnd(
        cast(add_scaled(work, best.length, direction), layout.dtypes), best.length, predicted, ended
    )


class LineStep(NamedTuple):
    """A step along a direction and the loss there."""

    length: float
    value: float


class LineSearch:
    """Search from `x` for the step with the lowest loss along ± a unit vector.

    A decrease below `margin` is rounding.  With `both` the better side is taken; else +direction if the loss
    falls there at all.
    """

    def __init__(
        self, objective: Objective, x: Vector, direction: Vector, value: float, margin: float, both: bool
    ) -> None:
        self._objective, self._x, self._direction = objective, x, direction
        self._start, self._margin, self._both = value, margin, both
        self.best = LineStep(0.0, value)

    def run(self, scale: float) -> LineStep:
        """Return the best step, of length 0 if none lowers the loss, where `scale` is the longest at first.

        Steps shrink until the loss falls, then go out while it falls.  The one found lies before the first
        rise of the loss that was seen, in the valley next to the start, and within LONGEST scales.
        """
        for call in range(MAX_CALLS):
            steps = scale * 16.0**-call * 0.5 ** np.arange(LINE_STEPS // 2)[::-1]
            values = self._values(np.concatenate([steps, -steps]))
            ahead, behind = np.split(values, 2)
            for sign, side in ((1.0, ahead), (-1.0, behind)):
                if sign > 0 or self._both or self.best.length == 0:
                    self._walk(sign * steps, side)
            if self.best.value < self._start - self._margin:
                break
        else:
            return self.best
        outermost = steps[-1]
        while abs(self.best.length) >= outermost and outermost < LONGEST * scale:
            sign = float(np.sign(self.best.length))
            steps = outermost * 2.0 ** np.arange(1, LINE_STEPS + 1)
            steps = steps[steps <= LONGEST * scale]
            if len(steps) == 0:
                break
            padded = sign * np.pad(steps, (0, LINE_STEPS - len(steps)), mode="edge")
            self._walk(padded, self._values(padded))
            outermost = steps[-1]
        self._refine()
        return self.best

    def _refine(self) -> None:
        """Divide the bracket around the best step, which holds steps half and twice as long."""
        low, high = 0.5 * self.best.length, 2.0 * self.best.length
        for _ in range(REFINEMENTS):
            inner = np.linspace(low, high, LINE_STEPS + 2)
            width = inner[1] - inner[0]
            for step, value in zip(inner[1:-1], self._values(inner[1:-1]), strict=True):
                self._keep(step, value)
            low, high = self.best.length - width, self.best.length + width

    def _values(self, steps: np.ndarray) -> np.ndarray:
        values, _ = self._objective.line(self._x, self._direction, steps)
        return np.where(np.isfinite(values), values, np.inf)

    def _walk(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Go outwards while the loss falls, and keep the last step before it rises."""
        last = self.best.value if abs(self.best.length) < abs(steps[0]) else self._start
        for step, value in zip(steps, values, strict=True):
            if value > last:
                return
            last = value
            self._keep(step, value)

    def _keep(self, step: float, value: float) -> None:
        if value < self.best.value:
            self.best = LineStep(float(step), float(value))


def _check_point(point: CriticalPoint, objective: Objective, value: float) -> None:
    if point.size != objective.layout.size:
        raise ValueError(
            f"point is about {point.size} variables, params has {objective.layout.size}; "
            "classify these parameters, or leave point out"
        )
    close = 1e3 * float(jnp.finfo(objective.layout.dtype).eps) * max(abs(value), abs(point.loss))
    if np.isfinite(value) and abs(value - point.loss) > close:
        raise ValueError(
            f"point has loss {point.loss:.8g}, params have {value:.8g}: it was made at other parameters, "
            "for another loss or other data; classify again, or leave point out"
        )


def _no_direction(point: CriticalPoint) -> tuple[str, EscapeReason]:
    if point.label in ("minimum", "not_critical") and point.reasons[0] not in FAULTS:
        return "nothing_to_escape", EscapeReason(
            "minimum" if point.label == "minimum" else "slope", left=point.gain, reach=point.reach
        )
    return "undetermined", EscapeReason("no_direction", label=point.label, reason=point.evidence[0])
