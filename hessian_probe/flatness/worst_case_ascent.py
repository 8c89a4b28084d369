"""The highest loss within a box or an ellipsoid around the parameters, from below.

Each step goes to the point of the region that is farthest along the gradient.  A convex loss rises at
every such step (it lies above its tangent planes); on a quadratic and an ellipsoid this is the power
method.  Any point visited is a lower bound; the highest one counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, norm, scale
from hessian_probe.operators.objective import Objective

# Steps of one ascent at most, as Keskar et al. 2017, section 2.2.2, gave to theirs.
STEPS = 10
# An ascent ends when a step raises the rise by less than this share.
SETTLED = 1e-3


class Region(NamedTuple):
    """Moves z with |zᵢ| ≤ wᵢ (a box), or with Σ(zᵢ/wᵢ)² ≤ 1 (an ellipsoid); zᵢ = 0 where wᵢ = 0.

    Attributes:
        widths: w ≥ 0, a vector.
        box: whether it is a box.
    """

    widths: Vector
    box: bool

    def along(self, direction: Vector) -> Vector:
        """The move whose direction, in units of the widths, is this one (for a box, its signs)."""
        if self.box:
            unit = tuple(jnp.sign(leaf) for leaf in direction)
        else:
            length = float(norm(direction))
            unit = scale(1 / length if length > 0 else 0.0, direction)
        return _times(self.widths, unit)

    def farthest(self, gradient: Vector) -> Vector:
        """The move of the region that maximises gradient · z."""
        return self.along(_times(self.widths, gradient))


class AscentResult(NamedTuple):
    """What the ascents found.

    Attributes:
        rise: highest loss seen in the region, less that at its centre; a lower bound of the largest.
        spread: how far below it the second-best ascent ended.
        num_evaluations: losses with gradients spent.
    """

    rise: float
    spread: float
    num_evaluations: int


def worst_case_ascent(
    objective: Objective, x: Vector, value: float, region: Region, directions: Iterable[Vector]
) -> AscentResult:
    """Climb from several moves and keep the highest loss.

    Args:
        objective: the loss.
        x: centre of the region.
        value: loss there.
        region: the moves allowed.
        directions: where the ascents start, in units of the region's widths.

    Returns:
        Highest; NaN where a loss in the region is not finite.
    """
    centre = cast(x, objective.layout.work_dtypes)
    before = objective.cost.num_evaluations
    ends = []
    for direction in directions:
        move, best = region.along(direction), 0.0
        for step in range(STEPS):
            there, gradient = objective.value_and_gradient(add_scaled(centre, 1.0, move))
            rise = there - value
            if not np.isfinite(rise):
                return AscentResult(float("nan"), float("nan"), objective.cost.num_evaluations - before)
            gained, best = rise - best, max(rise, best)
            if step and gained <= SETTLED * best:
                break
            move = region.farthest(gradient)
        ends.append(best)
    ends.sort()
    return AscentResult(ends[-1], ends[-1] - ends[-2], objective.cost.num_evaluations - before)


def _times(a: Vector, b: Vector) -> Vector:
    return tuple(x * y.astype(x.dtype) for x, y in zip(a, b, strict=True))
