"""The way from the parameters to the critical point that a label is about."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, dot
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.points.extreme_eigenpairs import ExtremeEigenpairs
from hessian_probe.points.reviews.sampling.gradient_noise import GradientNoise


class Point(NamedTuple):
    """An operator and what is known of its spectrum: the parameters, or the predicted critical point."""

    operator: HessianOperator
    extremes: ExtremeEigenpairs


def newton_displacement(here: Point, there: Point) -> Vector | None:
    """Return the step from one place to the other; None where they are the same."""
    if there.operator is here.operator:
        return None
    work = here.operator.layout.work_dtypes
    return add_scaled(cast(there.operator.x, work), -1.0, cast(here.operator.x, work))


def loss_to_go(here: Point, there: Point, step: Vector | None) -> float:
    """Change of the loss along the step, from the slopes at both its ends."""
    if step is None:
        return 0.0
    return 0.5 * abs(sum(float(dot(step, place.operator.gradient_vector)) for place in (here, there)))


def model_change(gradient_noise: GradientNoise, there: Point, step: Vector | None) -> float:
    """The same eigenvector by eigenvector, as far as these are known: rises and falls do not cancel."""
    if step is None:
        return 0.0
    beyond = np.abs(gradient_noise.curvatures) > there.extremes.band
    along = np.array([estimate.value for estimate in gradient_noise.along])[beyond]
    return float(np.sum(0.5 * np.abs(along * (along / gradient_noise.curvatures[beyond]))))
