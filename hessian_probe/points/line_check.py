"""Does the loss itself show the curvature and the slope that its derivatives claim, and how far?

A derivative of the user's own (straight-through rounding, a reversed or clipped gradient) need not be that
of the loss, and a second derivative is blind to kinks and steps; values along lines and in random
directions are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, dot, norm, random_normal, scale
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.evidence import Reason
from hessian_probe.points.rounding import Rounding
from hessian_probe.points.thresholds import (
    CHECK_BLIND,
    CHECK_DISTANCES,
    CHECK_GROUPS,
    CHECK_NAMED,
    CHECK_SHARE,
    CHECK_STEPS,
    JUMP_ROUNDINGS,
    LINE_CALLS,
    LINE_POINTS,
    NEARER,
    SAMPLE_ROUNDINGS,
    SLOPE_ROUNDINGS,
    SLOPE_SHARE,
    SPOT_DIRECTIONS,
    VALUE_SHARE,
    VISIBLE_ROUNDINGS,
)


class LineCheck(NamedTuple):
    """What the loss does along a direction.

    Attributes:
        radius: largest probed distance over which the curvature holds; 0 if none.
        change: ½|λ|·radius², what the curvature changes the loss by over that distance.
        confirmed_by: "loss", "slope" (losses too noisy to difference) or "" (not confirmed).
        measured: the second difference, in loss / params².
        downhill: sign of the direction whose loss was lower at the radius; 0 where they are equal.
    """

    radius: float
    change: float
    confirmed_by: str
    measured: float
    downhill: float


NOTHING = LineCheck(0.0, 0.0, "", math.nan, 0.0)


def parameter_scale(op: HessianOperator) -> float:
    """Distance from which probing starts: the length of the parameters that the loss reads, at least 1."""
    read = tuple(leaf for leaf, flag in zip(op.x_vector, op.active, strict=True) if flag)
    return max(float(norm(read)), 1.0)


def line_check(
    op: HessianOperator,
    direction: Vector,
    curvature: float,
    rounding: Rounding,
    slope_error: float | None = None,
) -> LineCheck:
    """Find the distance over which slope and loss show the `curvature` claimed along a unit direction.

    Where no `slope_error` along it is given, that of the gradient is taken.

    Returns:
        The check; `confirmed_by` is "" where no distance shows the claimed curvature.  A distance
        counts only if the curvature holds nearer too: it does not at a kink, nor where the loss
        comes back by chance.
    """
    # A slope is itself rounded, and below the smallest normal number it is cut off.
    finfo = jnp.finfo(op.objective.scalar_dtype)
    rounded = SLOPE_ROUNDINGS * float(finfo.eps) * abs(float(dot(op.gradient_vector, direction)))
    slope_error = rounding.gradient if slope_error is None else slope_error
    slope_error = slope_error + rounded + SLOPE_ROUNDINGS * float(finfo.tiny)
    start, allowed = parameter_scale(op), SLOPE_SHARE * abs(curvature)

    def holds(pair: _Pair) -> bool:  # never for NaN
        return math.isfinite(pair.by_loss) and abs(pair.by_slope - curvature) <= allowed

    for call in range(LINE_CALLS):
        exponents = 0.5 * np.arange(call * LINE_POINTS, (call + 1) * LINE_POINTS)
        for pair in _pairs(op, direction, start * 0.5**exponents):
            if slope_error > allowed * pair.step:
                return NOTHING
            if holds(pair):
                nearer = _pairs(op, direction, pair.step * np.array(NEARER))
                # As far as the gradient's accuracy allows to see.
                if all(holds(near) or slope_error > allowed * near.step for near in nearer):
                    return _judged(pair, curvature, rounding.value)
    return NOTHING


class _Pair(NamedTuple):
    """Curvature seen between +step and −step: from slopes, from losses; and ahead minus behind."""

    step: float
    by_slope: float
    by_loss: float
    apart: float


def _pairs(op: HessianOperator, direction: Vector, steps: np.ndarray) -> list[_Pair]:
    """Evaluate at ± every step."""
    values, slopes = op.objective.line(op.x, direction, np.concatenate([steps, -steps]))
    (ahead, behind), (slope, slope_behind) = np.split(values, 2), np.split(slopes, 2)
    with np.errstate(invalid="ignore", over="ignore"):
        by_slope = (slope - slope_behind) / (2 * steps)
        by_loss, apart = (ahead + behind - 2 * op.value) / steps**2, ahead - behind
    return [_Pair(*map(float, row)) for row in zip(steps, by_slope, by_loss, apart, strict=True)]


def _judged(pair: _Pair, curvature: float, value_error: float) -> LineCheck:
    """Confirm the curvature by the losses at the widest distance where it holds."""
    size, step, noise = abs(curvature), pair.step, 4 * value_error / pair.step**2
    downhill = 0.0 if abs(pair.apart) <= 4 * value_error else -math.copysign(1.0, pair.apart)
    measured, by = pair.by_loss, "loss"
    if noise > VALUE_SHARE * size:
        measured, by = pair.by_slope, "slope"
    elif abs(measured - curvature) > VALUE_SHARE * size + noise:
        by = ""
    return LineCheck(step, 0.5 * size * step**2, by, measured, downhill)


class FalseDerivative(NamedTuple):
    """A derivative that is not that of the loss; the displacement to a lower loss, if the lines show one."""

    reason: Reason
    lower: Vector | None


def derivative_check(
    op: HessianOperator, rounding: Rounding, rng: np.random.Generator
) -> FalseDerivative | None:
    """Hold the loss's changes along lines against its own derivatives there.

    Between two points of a line the loss changes by no less than its smallest slope there allows and no more
    than its largest; slopes are those at the two points.  What lies outside, in the two smallest intervals
    that rounding lets see on both sides, is no change that this derivative makes.  Nor is it, further out,
    where the loss changes much and every slope says that it does not: steps, rounding, counting.

    Returns:
        What was found; None where derivatives and loss agree, or where every operation of the loss has the
        derivative that JAX takes (`ProgramFacts.blind`).

    Cost:
        8 losses with slopes along a line in all leaves, and along one in each of up to CHECK_GROUPS groups;
        where a line disagrees, 8 more at each distance further inwards that rounding lets see.
    """
    facts = op.objective.facts
    if not facts.blind:
        return None
    leaves = [index for index, on in enumerate(op.active) if on]
    # What the loss reads and the gradient does not would hide among others.
    still = [index for index in leaves if not jnp.any(op.gradient_vector[index])]
    others = [index for index in leaves if index not in still]
    parts = (np.array_split(some, min(len(some), CHECK_GROUPS // 2)) for some in (still, others) if some)
    groups = [group.tolist() for part in parts for group in part]
    lines = [_SlopeCheck(op, rounding, _direction(op, rng, group)) for group in (leaves, *groups)]
    lowest = min(lines, key=lambda line: line.fall)
    lower = lowest.lowest if lowest.fall < -SAMPLE_ROUNDINGS * rounding.value else None
    where = "; ".join(facts.blind[:CHECK_NAMED])
    wrong = [index for index, line in enumerate(lines) if line.persists or np.sum(line.blind) >= CHECK_STEPS]
    if not wrong:
        most = math.sqrt(op.eps) * max(line.widest for line in lines)
        own = abs(op.value) + float(norm(op.gradient_vector)) * parameter_scale(op)
        if rounding.value > max(most, JUMP_ROUNDINGS * op.eps * own):
            return FalseDerivative(Reason("loss_jumps", change=rounding.value, where=where), lower)
        return None
    alone = [groups[index - 1] for index in wrong if index > 0]
    names = [op.layout.names[index] for group in alone or [leaves] for index in group]
    listed = ", ".join(names[:CHECK_GROUPS]) + (", …" if len(names) > CHECK_GROUPS else "")
    numbers = lines[wrong[-1]].disagreement()
    return FalseDerivative(Reason("derivative_not_of_loss", **numbers, leaves=listed, where=where), lower)


def _direction(op: HessianOperator, rng: np.random.Generator, leaves: list[int]) -> Vector:
    """A random unit direction in some leaves, with as much of each as that leaf is large."""
    size = parameter_scale(op) / math.sqrt(max(op.size, 1))
    parts = []
    for index, (leaf, value) in enumerate(zip(random_normal(rng, op.layout, op.active), op.x, strict=True)):
        width = max(float(norm((value,))) / math.sqrt(max(value.size, 1)), size)
        parts.append(leaf * (width if index in leaves else 0.0))
    return scale(1 / norm(tuple(parts)), tuple(parts))


class _SlopeCheck:
    """Changes of the loss between neighbouring points of a line, beside the slopes at these points.

    Attributes:
        near: whether the two smallest intervals that are visible on both sides disagree; None where there are
            not two on both sides.
        blind: intervals where the loss changes much more than any slope allows.
        widest: largest change of the loss on the line.
        fall: change of the loss at the lowest point.
        lowest: displacement to it.
    """

    def __init__(
        self, op: HessianOperator, rounding: Rounding, direction: Vector, share: float = 1.0
    ) -> None:
        self.op, self.rounding, self.direction = op, rounding, direction
        steps = share * parameter_scale(op) * np.array(CHECK_DISTANCES)
        ts = np.concatenate([-steps, steps[::-1]])
        values, slopes = op.objective.line(op.x, direction, ts)
        middle = len(steps)
        self.ts = np.insert(ts, middle, 0.0)
        values = np.insert(values, middle, op.value)
        slopes = np.insert(slopes, middle, float(dot(op.gradient_vector, direction)))
        with np.errstate(invalid="ignore", over="ignore"):
            widths = np.diff(self.ts)
            self.shown = np.diff(values) / widths
            low, high = np.minimum(slopes[1:], slopes[:-1]), np.maximum(slopes[1:], slopes[:-1])
            self.claimed = np.clip(self.shown, low, high)
            error = VISIBLE_ROUNDINGS * rounding.value / widths
            largest = np.maximum(np.abs(low), np.abs(high))
            outside, size = np.abs(self.shown - self.claimed), np.maximum(largest, np.abs(self.shown))
            visible = np.isfinite(outside) & (CHECK_SHARE * size > error)
            wrong = visible & (outside > CHECK_SHARE * size + error)
            self.blind = visible & (np.abs(self.shown) > CHECK_BLIND * largest + error)
        sides = np.flatnonzero(visible[middle:]) + middle, np.flatnonzero(visible[:middle])[::-1]
        seen = all(len(side) >= 2 for side in sides)
        self.near = all(bool(np.all(wrong[side[:2]])) for side in sides) if seen else None
        self.nearest = int(sides[0][0]) if self.near else -1
        changes = np.where(np.isfinite(values), values - op.value, np.inf)
        self.widest = float(np.max(np.abs(changes[np.isfinite(changes)])))
        self.fall = float(np.min(changes))
        self.lowest = scale(self.ts[int(np.argmin(changes))], direction)

    @property
    def persists(self) -> bool:
        """Whether they disagree, and do as far inwards as rounding lets see: waves that are short do not."""
        near, inwards = self.near, CHECK_DISTANCES[1] / CHECK_DISTANCES[0]
        share = inwards
        while near and share > self.op.eps:
            near = _SlopeCheck(self.op, self.rounding, self.direction, share).near
            share *= inwards
        return bool(self.near) and near is not False

    def disagreement(self) -> dict[str, float]:
        """Slope that the derivative claims, slope that the loss shows, and how far from the parameters."""
        index = self.nearest if self.nearest >= 0 else int(np.flatnonzero(self.blind)[0])
        numbers = self.claimed[index], self.shown[index], np.max(np.abs(self.ts[index : index + 2]))
        return dict(zip(("claimed", "shown", "distance"), map(float, numbers), strict=True))


def spot_check(
    op: HessianOperator, sign: float, distance: float, rounding: Rounding, rng: np.random.Generator
) -> float | None:
    """Find how far away a sample is lower than a minimum (`sign` +1) or higher than a maximum (−1).

    Returns:
        The distance, within that over which the curvature was seen to hold, or None.

    Cost:
        SPOT_DIRECTIONS · 8 evaluations.
    """
    nearer = distance * np.array(NEARER)
    steps = np.concatenate([nearer, -nearer])
    slope = float(norm(op.gradient_vector))
    for _ in range(SPOT_DIRECTIONS):
        direction = random_normal(rng, op.layout, op.active)
        values, _ = op.objective.line(op.x, scale(1 / norm(direction), direction), steps)
        allowed = SAMPLE_ROUNDINGS * rounding.value + 2 * slope * np.abs(steps)
        wrong = sign * (values - op.value) < -allowed
        if np.any(wrong):
            return float(np.min(np.abs(steps[wrong])))
    return None
