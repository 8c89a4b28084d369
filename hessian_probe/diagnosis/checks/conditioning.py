"""Is the problem so ill-conditioned that gradient steps make no progress along a valley?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, cast, merge, norm, row
from hessian_probe.diagnosis.confidence import Found, finding, joint_confidence, ratio
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.results import number
from hessian_probe.spectrum.krylov import Krylov

# Products spent, and gradient steps that they are held against.
PRODUCTS = 24
# Dampings tried, relative to the largest curvature: a network follows its quadratic model only so far.
DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1)
# The floor of a valley may curve down by this share of the largest curvature; beyond it is a saddle.
FLOOR = 0.1
# Share of the loss that a damped Newton step must gain over the optimiser, and how many times as much; or how
# many times less it must leave.
MATERIAL = 0.05
BETTER = 3.0
# Condition from which a valley is long: gradient steps that keep within it take about as many steps.
LONG = 100.0
SPREAD = 0.5
PRECONDITION = "normalise inputs or activations, or precondition (Adam, Adagrad, L-BFGS)"


class GradientKrylovModel(NamedTuple):
    """The quadratic model along the gradient's Krylov space; decreases are by the model."""

    top: float  # largest curvature, in magnitude
    condition: float  # the same ÷ curvature where most of the decrease lies
    plain: float  # decrease by as many gradient steps of length 1/λ_max
    krylov: float  # decrease within the Krylov space along positive curvature
    steps: tuple[Vector, ...]  # the step that makes it, and damped ones for each of DAMPINGS


def gradient_krylov_model(case: Experiments) -> GradientKrylovModel | None:
    """Run Lanczos from the gradient and compare what both methods could reach."""
    op, gradient = case.op, case.op.gradient_vector
    length = float(norm(gradient))
    if not length > 0:
        return None
    krylov = Krylov(op, gradient, case.rng, PRODUCTS, op.active)
    while krylov.size < PRODUCTS and krylov.step():
        pass
    ritz = krylov.ritz()
    top = float(np.max(np.abs(ritz.values)))
    good = ritz.values > 1e-6 * top  # along the rest the model has no minimum
    if not np.any(good):
        return None
    curvature, share = ritz.values[good], (length * ritz.weights[0, good]) ** 2
    gains = 0.5 * share / curvature
    left = (1 - curvature / top) ** (2 * PRODUCTS)
    order = np.argsort(curvature)
    middle = curvature[order][np.searchsorted(np.cumsum(gains[order]), 0.5 * gains.sum())]
    # Along strong negative curvature there is no step: a saddle is another finding's business.
    floor = ritz.values > -FLOOR * top
    damped = [np.where(floor, np.abs(ritz.values) + damping * top, np.inf) for damping in DAMPINGS]
    divisors = [np.where(good, ritz.values, np.inf), *damped]
    weights = np.stack([ritz.weights @ (-length * ritz.weights[0] / d) for d in divisors], axis=1)
    basis = krylov.vectors(weights)
    return GradientKrylovModel(
        top=top,
        condition=top / float(middle),
        plain=float(np.sum(gains * (1 - left))),
        krylov=float(np.sum(gains)),
        steps=tuple(row(basis, index) for index in range(len(divisors))),
    )


def check(case: Experiments) -> Found:
    """Take damped Newton steps on a copy, and compare them with first-order steps."""
    model = gradient_krylov_model(case)
    if model is None or not case.value > 0:
        return []
    op = case.op
    losses = [op.objective.value(add_scaled(op.x, 1.0, step)) for step in model.steps]
    lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
    if lowest < case.value:
        x = add_scaled(op.x, 1.0, model.steps[losses.index(lowest)])
        at = merge(op.layout, cast(x, op.layout.dtypes), op.objective.non_variables)
        case.lower_points.append((lowest, at))
    own = max((trial.gain for trial in case.trials.values()), default=0.0)
    # Steps of the user's optimiser, but also plain ones on all samples: what holds the former up (noise, a
    # projection) need not be the valley.
    predicted = min(model.plain / case.value, 1.0)
    plain = max(own, case.gradient_descent(1 / model.top).gain if case.trials else predicted, 0.0)
    newton = (case.value - lowest) / case.value
    # How much is left is unknown for a loss that can be negative.
    left = (1 - plain) / max(1 - newton, 1e-9) if lowest >= 0 else 0.0
    better = max(newton / plain, left) if plain > 0 else math.inf
    case.measured["condition along the gradient"] = number(model.condition, 3)
    said = f"{number(newton, 3)}, against {number(plain, 3)} by first-order steps"
    case.measured[f"share of the loss that a damped Newton step of {PRODUCTS} products gains"] = said
    return [
        finding(
            ("ill_conditioned", "newton_step"),
            f"a long valley: most of the possible decrease lies along curvature "
            f"{number(model.condition, 3)} times smaller than the largest; a Newton step of {PRODUCTS} "
            f"products lowers the loss by {number(100 * newton, 3)} %, first-order steps by "
            f"{number(100 * plain, 3)} %",
            "decrease by a Newton step ÷ by first-order steps, or what these leave ÷ what it leaves",
            ratio(better, BETTER, SPREAD),
            sure=joint_confidence(
                SPREAD, (better, BETTER), (model.condition, LONG), (newton - plain, MATERIAL)
            ),
            remedy=("precondition", PRECONDITION),
            cost=f"{PRODUCTS} HVPs, {len(losses)} evaluations",
        )
    ]
