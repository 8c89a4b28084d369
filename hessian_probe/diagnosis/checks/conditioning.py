"""Is the valley so long that gradient steps cannot follow it?"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, norm
from hessian_probe.diagnosis.context import Context
from hessian_probe.diagnosis.evidence import Found, log_confidence
from hessian_probe.diagnosis.result import Finding
from hessian_probe.results import number
from hessian_probe.spectrum.krylov import Krylov

# Products spent, and gradient steps that they are held against.
PRODUCTS = 24
# Share of the loss that conjugate gradients must gain, and how many times that of gradient descent.
MATERIAL = 0.1
BETTER = 5.0
SPREAD = 0.5


class Valley(NamedTuple):
    """The quadratic model along the gradient's Krylov space.

    Attributes:
        condition: largest curvature ÷ curvature where most of the decrease lies.
        plain: decrease by as many gradient steps of length 1/λ_max, by the model.
        krylov: decrease within the Krylov space, by the model.
        step: the step that makes it.
    """

    condition: float
    plain: float
    krylov: float
    step: Vector


def measure(context: Context) -> Valley | None:
    """Run Lanczos from the gradient and compare what both methods could reach."""
    op = context.op
    gradient = op.gradient_vector
    length = float(norm(gradient))
    if not length > 0:
        return None
    krylov = Krylov(op, gradient, context.rng, PRODUCTS, op.active)
    while krylov.size < PRODUCTS and krylov.step():
        pass
    context.num_hvps += krylov.steps
    ritz = krylov.ritz()
    top = float(np.max(np.abs(ritz.values)))
    share = (length * ritz.weights[0]) ** 2
    good = ritz.values > 1e-6 * top  # along the rest the model has no minimum
    if not np.any(good):
        return None
    curvature, share = ritz.values[good], share[good]
    gains = 0.5 * share / curvature
    left = (1 - curvature / top) ** (2 * PRODUCTS)
    plain = float(np.sum(gains * (1 - left)))
    weights = ritz.weights[:, good] @ (-length * ritz.weights[0, good] / curvature)
    step = krylov.vectors(weights[:, None])
    order = np.argsort(curvature)
    middle = curvature[order][np.searchsorted(np.cumsum(gains[order]), 0.5 * gains.sum())]
    return Valley(top / float(middle), plain, float(np.sum(gains)), tuple(leaf[0] for leaf in step))


def check(context: Context) -> Found:
    """Hold gradient steps against conjugate gradients, and take the latter's step for real."""
    valley = measure(context)
    if valley is None:
        return []
    op = context.op
    lengths = (1.0, 0.5, 0.25)
    losses = [op.objective.value(add_scaled(op.x, t, valley.step)) for t in lengths]
    context.num_evaluations += len(lengths)
    lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.inf)
    own = min((trial.after for trial in context.trials.values()), default=math.inf)
    gain = (min(own, context.value) - lowest) / context.value if context.value > 0 else 0.0
    better = (context.value - lowest) / valley.plain if valley.plain > 0 else math.inf
    context.measured["condition along the gradient"] = number(valley.condition, 3)
    context.measured[f"share of the loss that {PRODUCTS} products gain"] = number(gain, 3)
    return [
        Finding(
            cause="ill_conditioned",
            claim=f"a long valley: most of the possible decrease lies where the curvature is "
            f"{number(valley.condition, 3)} times smaller than the largest; {PRODUCTS} Krylov steps gain "
            f"{number(better, 2)} times what as many gradient steps can, and {number(100 * gain, 2)} % "
            "of the loss more than the optimiser in use at any rate tried",
            quantity="decrease by conjugate gradients ÷ by gradient steps",
            number=better,
            low=better * math.exp(-2 * SPREAD),
            high=better * math.exp(2 * SPREAD),
            threshold=BETTER,
            source="chosen on the planted troubles (make bench-diagnose)",
            confidence=min(log_confidence(better, BETTER, SPREAD), log_confidence(gain, MATERIAL, SPREAD)),
            experiment="normalise inputs or activations, or precondition (Adam, Adagrad, L-BFGS)",
            cost=f"{PRODUCTS} HVPs, {len(lengths)} evaluations",
        )
    ]
