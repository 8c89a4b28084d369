"""Leave a point along negative curvature, a descent of higher order or on a sphere; prove the lower loss."""

from __future__ import annotations

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
    faults = [text for code, text in zip(point.reasons, point.evidence, strict=True) if code in FAULTS]
    told = tuple(EscapeReason("derivative", reason=text) for text in faults)
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
            end, lowest, on_sphere = _LineEnd(there, math.nan, math.nan), after, True
    if end is not None and before - lowest >= WORTH * slope and lowest < floor - margin:
        sphere = found if on_sphere else None
        return _escaped(point, objective, params, before, lowest, end, slope, progress, sphere, told)
    if known is not None:
        reason = EscapeReason("no_decrease", floor=floor, margin=max(margin, slope), lowest=lowest)
        status = "no_decrease"
    else:
        status, reason = _no_direction(point)
    if found is not None:
        told = (EscapeReason("nothing_found_on_spheres", radii=radii_tried()), *told)
    return Escape.of(point, status, params, before, reason, *told, gain_of_slope=slope, cost=objective.cost)


def _along_known(
    point: CriticalPoint, objective: Objective, before: float, margin: float
) -> tuple[_LineEnd | None, float, bool]:
    """Search along negative curvature and from a descent of higher order, where the point has them.

    Returns:
        Where the lower one ended, or None; the loss there; False where Ctrl-C ended it.
    """
    ends = []
    if point.escape_direction is not None:
        ends.append(_straight(objective, point, before, margin))
    ended = not ends or ends[0].ended
    if point.descent is not None and ended:
        move = from_tangent(objective.layout, point.descent, "point.descent")
        ends.append(_LineEnd(_continue_from(objective, move, margin), math.nan, math.nan))
    if not ends:
        return None, before, True
    values = [objective.value(end.moved) for end in ends]
    lowest, end = min(
        zip(values, ends, strict=True), key=lambda pair: math.inf if math.isnan(pair[0]) else pair[0]
    )
    return end, lowest, ended


def _settle(objective: Objective, before: float, margin: float) -> tuple[Vector, float]:
    """Go down along the gradient by SETTLING line searches; where that ends, and what it gained.

    A step along which the loss bends down is none by the slope: it ends before that.

    Args:
        objective: the loss.
        before: its value at the variables.
        margin: a decrease below this is rounding.

    Returns:
        Variables, and the decrease.
    """
    x, value, work = objective.variables, before, objective.layout.work_dtypes
    length = max(float(norm(cast(x, work))), 1.0)
    for _ in range(SETTLING):
        gradient = objective.value_and_gradient(x)[1]
        steepness = float(norm(gradient))
        if not (math.isfinite(steepness) and steepness > 0):
            break
        downhill = scale(-1.0 / steepness, gradient)
        best = LineSearch(objective, x, downhill, value, margin, False).run(length)
        fall = value - best.value
        if not margin < fall <= BENT * steepness * abs(best.length):
            break
        x = cast(add_scaled(cast(x, work), best.length, downhill), objective.layout.dtypes)
        value, length = best.value, max(2 * abs(best.length), 1e-3 * length)
    return x, max(before - value, 0.0)


def _escaped(
    point: CriticalPoint,
    objective: Objective,
    params: PyTree,
    before: float,
    after: float,
    end: _LineEnd,
    slope: float,
    progress: Callable[[str], None] | None,
    sphere: SearchResult | None = None,
    told: tuple[EscapeReason, ...] = (),
) -> Escape:
    if progress is not None:
        progress(f"best step: loss {number(after, 6)}")
    distance = distance_to(end.moved, objective) if math.isnan(end.step) else abs(end.step)
    if sphere is not None:
        fell = EscapeReason(
            "fell_on_sphere", gain=before - after, distance=distance, radius=sphere.radius, slope=slope
        )
        reasons: tuple[EscapeReason, ...] = (fell,)
    else:
        reasons = _reasons(point, before, after, end.predicted, distance)
    return Escape.of(
        point,
        "escaped",
        merge(objective.layout, end.moved, objective.non_variables),
        before,
        *reasons,
        *told,
        after=after,
        gain=sphere.gain + slope if sphere is not None else before - after,
        gain_of_slope=slope,
        distance=distance,
        step=end.step,
        predicted=end.predicted,
        cost=objective.cost,
    )


class _LineEnd(NamedTuple):
    """Where a search ended: the variables, the signed step if straight, and the loss predicted there.

    `ended` is False where Ctrl-C ended it: the best step so far.
    """

    moved: Vector
    step: float
    predicted: float
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


def _continue_from(objective: Objective, move: Vector, margin: float) -> Vector:
    """Move to a lower point that second order does not show, and search downhill from there."""
    layout = objective.layout
    work = cast(objective.variables, layout.work_dtypes)
    there = cast(add_scaled(work, 1.0, move), layout.dtypes)
    value, gradient = objective.value_and_gradient(there)
    steepness = float(norm(gradient))
    if not (math.isfinite(value) and math.isfinite(steepness)) or steepness == 0:
        return there
    downhill = scale(-1.0 / steepness, gradient)
    best = LineSearch(objective, there, downhill, value, margin, False).run(float(norm(move)))
    return cast(add_scaled(cast(there, layout.work_dtypes), best.length, downhill), layout.dtypes)


class LineStep(NamedTuple):
    """A step along a direction and the loss there."""

    length: float
    value: float


class LineSearch:
    """Search for the step with the lowest loss along ±direction.

    Args:
        objective: the loss.
        x: variables where the line starts.
        direction: unit vector.
        value: loss at `x`.
        margin: a decrease below this is rounding.
        both: take the better side; else +direction if the loss falls there at all.
    """

    def __init__(
        self, objective: Objective, x: Vector, direction: Vector, value: float, margin: float, both: bool
    ) -> None:
        self._objective, self._x, self._direction = objective, x, direction
        self._start, self._margin, self._both = value, margin, both
        self.best = LineStep(0.0, value)

    def run(self, scale: float) -> LineStep:
        """Search from a first scale: shrink until the loss falls, then walk out while it falls.

        The step found lies before the first rise of the loss that was seen, in the valley next to the start,
        and within LONGEST scales.

        Args:
            scale: the longest step that is tried at first.

        Returns:
            The best step; of length 0 if none lowers the loss.
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
            padded = np.pad(steps, (0, LINE_STEPS - len(steps)), mode="edge")
            self._walk(sign * padded, self._values(sign * padded))
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


def distance_to(there: Vector, objective: Objective) -> float:
    """Distance of variables from those of the objective, in params."""
    work = objective.layout.work_dtypes
    return float(norm(add_scaled(cast(there, work), -1.0, cast(objective.variables, work))))


def _reasons(
    point: CriticalPoint, before: float, after: float, predicted: float, distance: float
) -> tuple[EscapeReason, EscapeReason]:
    """Say what a step gained, and why no descent returns from there."""
    gain = before - after
    if point.descent is not None:
        fell = EscapeReason("fell_by_higher_order", gain=gain, distance=distance)
    elif math.isnan(predicted):
        fell = EscapeReason("fell", gain=gain, distance=distance)
    else:
        fell = EscapeReason("fell_by_model", gain=gain, distance=distance, predicted=before - predicted)
    if math.isfinite(point.critical_loss):
        below = min(before, point.critical_loss) - after
        return fell, EscapeReason("below_critical_point", below=below)
    return fell, EscapeReason("from_no_critical_point", label=point.label.replace("_", " "))
