"""The loss along the escape direction on both sides, beside what second order predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hessian_probe.arrays import PyTree, from_tangent
from hessian_probe.escapes.result import Escape, LossProfile
from hessian_probe.escapes.thresholds import BEYOND, DEFAULT_REACH
from hessian_probe.operators.objective import Objective
from hessian_probe.points.result import CriticalPoint


def loss_profile(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    point: CriticalPoint,
    move: Escape | None = None,
    trainable: Any = None,
    num: int = 61,
) -> LossProfile | None:
    """Evaluate the loss along a point's escape direction.

    Args:
        loss: `loss(params) -> scalar`, or `loss(params, batch) -> scalar mean over the batch`.
        params: the parameters that were classified.
        data: None, one batch, or a re-iterable of batches (see `hp.hessian`).
        point: their classification.
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        move: the escape from there; the profile reaches half as far again as its step.
        num: evaluations.

    Returns:
        The profile, or None if the point has no escape direction.

    Cost:
        `num` evaluations of loss and slope, in one compiled call.

    Example:
        >>> import hessian_probe as hp
        >>> import jax.numpy as jnp
        >>> loss = lambda p: p[0] ** 2 - p[1] ** 2
        >>> profile = loss_profile(loss, jnp.zeros(2), point=hp.classify(loss, jnp.zeros(2)), num=3)
        >>> profile.distances.tolist(), profile.losses.round(3).tolist()
        ([-1.0, 0.0, 1.0], [-1.0, 0.0, -1.0])
    """
    if point.escape_direction is None:
        return None
    objective = Objective(loss, params, data, trainable=trainable)
    direction = from_tangent(objective.layout, point.escape_direction, "point.escape_direction")
    step = 0.0 if move is None or move.step != move.step else move.step
    reach = BEYOND * abs(step) or DEFAULT_REACH
    distances = np.linspace(-reach, reach, 2 * (num // 2) + 1)
    losses, slopes = objective.line(objective.variables, direction, distances)
    return LossProfile(
        distances=distances,
        losses=losses,
        loss=point.loss,
        slope=float(slopes[len(slopes) // 2]),
        curvature=float(point.lowest.eigenvalues[0]),
        step=step,
        step_loss=point.loss if move is None or step == 0 else move.loss_after,
    )
