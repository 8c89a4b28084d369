"""An optimiser's name, rate, momentum and stability limit, from its measured response.

An update x − Σ hₖ∇f(x₋ₖ) with weight decay κ diverges along an eigenvector of P⁻¹H once its eigenvalue s
passes the value at which −1 solves z − 1 + κ = −s·Σ hₖz⁻ᵏ: from there on every step overshoots by more than
the last.  With hₖ = h₁ρᵏ⁻¹, s = (2 − κ) / (h₀ − h₁/(1 + ρ)).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector, flatten
from hessian_probe.optimizers.impulse_response import ImpulseResponse
from hessian_probe.optimizers.thresholds import RESPONSE_TOLERANCE

COHEN_2021 = "Cohen et al. 2021, arXiv:2103.00065"
COHEN_2022 = "Cohen et al. 2022, arXiv:2207.14484"


class RecognisedOptimizer(NamedTuple):
    """What an optimiser was recognised as.

    Attributes:
        name: e.g. "heavy ball", "Adam".
        rate: as `learning_rate` of `Stability`, where momentum, decay, formula and source are explained too.
        limit: stability limit of the largest eigenvalue of P⁻¹H, in loss / params² (times the units of P).
        preconditioner: P as a formula; "" where it is the identity.
        scale: largest eigenvalue of P⁻¹H divided by that of D^½HD^½.
    """

    name: str
    rate: float
    momentum: float
    decay: float
    limit: float
    formula: str
    source: str
    preconditioner: str
    scale: float


def recognise(response: ImpulseResponse) -> RecognisedOptimizer:
    """Name the optimiser and express its limit in the usual units.

    Returns:
        Its name and limit; in units where that is 2, where the form of the preconditioner is unknown.
    """
    first, gain = flatten(response.first), flatten(response.gain)
    moved = first > 0
    base, preconditioner = _base(response, first, moved)
    decay = _one_decay(response.decay, moved)
    factor = float(np.median(gain[moved] / first[moved]))
    known = base is not None
    base = base if base is not None else 1.0 / factor
    limit = (2.0 - (0.0 if np.isnan(decay) else decay)) / (base * factor)
    name, rate, formula = _named(response, base, decay)
    if not known:
        rate, formula = float("nan"), "2, in units of the measured steps"
    return RecognisedOptimizer(
        name=name,
        rate=rate,
        momentum=response.ratio,
        decay=decay,
        limit=limit,
        formula=formula,
        source=COHEN_2022 if response.kind else COHEN_2021,
        preconditioner=preconditioner,
        scale=1.0 / (base * factor),
    )


def _one_decay(decay: Vector, moved: np.ndarray) -> float:
    flat = flatten(decay)[moved]
    middle = float(np.median(flat))
    tolerance = RESPONSE_TOLERANCE * max(abs(middle), RESPONSE_TOLERANCE)
    return middle if np.all(np.abs(flat - middle) <= tolerance) else float("nan")


def _base(response: ImpulseResponse, first: np.ndarray, moved: np.ndarray) -> tuple[float | None, str]:
    """The rate c with −h₀ = c / P, and P as a formula; None where P has no known form."""
    if not response.kind:
        top = float(np.max(first))
        even = np.all(np.abs(first[moved] - top) <= RESPONSE_TOLERANCE * top)
        return top, "" if even else "largest rate ÷ the variable's own rate"
    second = response.preconditioner.second
    if any(moment is None for moment, leaf in zip(second, response.first, strict=True) if np.any(leaf)):
        return None, f"measured step of each variable ({response.kind})"
    pairs = list(zip(second, response.first, strict=True))
    values = [
        np.broadcast_to(0.0 if v is None else np.asarray(v, np.float64), leaf.shape) for v, leaf in pairs
    ]
    nu = np.concatenate([v.ravel() for v in values])[moved]
    shared = any(np.size(v) == 1 < leaf.size for v, leaf in pairs if v is not None)
    inverse = 1.0 / first[moved]
    forms = ((1, "√ν + ε"), (2, "√(ν + ε)")) if response.preconditioner.power < 1 else ((1, "ν"),)
    for power, text in forms:
        slope = _affine(nu ** (power * response.preconditioner.power), inverse**power)
        if slope is not None:
            return slope ** (-1 / power), text + (", one ν for each leaf" if shared else "")
    return None, f"measured step of each variable ({response.kind})"


def _affine(x: np.ndarray, y: np.ndarray) -> float | None:
    """Slope a of y = a·x + b with b ≥ 0, if it fits every entry; b = 0 where that does."""
    for columns in ([x / y], [x / y, 1 / y]):
        design = np.stack(columns, axis=1)
        size = np.linalg.norm(design, axis=0)
        if np.any(size == 0):
            return None
        found = np.linalg.lstsq(design / size, np.ones(len(y)), rcond=None)[0] / size
        if np.all(np.abs(design @ found - 1) <= 10 * RESPONSE_TOLERANCE) and found[0] > 0:
            return float(found[0])
    return None


def _named(response: ImpulseResponse, base: float, decay: float) -> tuple[str, float, str]:
    """Name, rate and formula of the limit."""
    beta, share = response.ratio, response.next_share
    plain = abs(share) <= RESPONSE_TOLERANCE
    heavy = abs(share - beta) <= 10 * RESPONSE_TOLERANCE
    nesterov = abs(share - beta**2 / (1 + beta)) <= 10 * RESPONSE_TOLERANCE
    minus = "" if abs(decay) <= RESPONSE_TOLERANCE**2 else " − decay"
    family = _family(response)
    if "Adam" in response.kind or "Amsgrad" in response.kind or "Belief" in response.kind:
        name = family + ("W" if minus and family == "Adam" else "")
        if not heavy:  # Nesterov's, in the first steps with two corrections of its own
            return "N" + name.lower(), float("nan"), "2/Σ(−1)ᵏhₖ"
        rate = base / (1 - beta) if response.preconditioner.forgets else float("nan")
        return name, rate, f"(2 + 2β₁)/((1 − β₁)η){minus}"
    if plain:
        return family or "gradient descent", base, f"2/η{minus}"
    if heavy:
        name = f"{family} with momentum" if response.kind else family or "heavy ball"
        return name, base, f"(2 + 2β)/η{minus}"
    if nesterov:
        name = f"{family} with Nesterov momentum" if family else "Nesterov"
        return name, base / (1 + beta), f"(2 + 2β)/((1 + 2β)η){minus}"
    return family or "momentum of its own kind", float("nan"), f"2/Σ(−1)ᵏhₖ{minus}"


def _family(response: ImpulseResponse) -> str:
    """Name by the second moment and how the step depends on it; "" without one."""
    found = response.preconditioner
    if found.rectified and not found.kind:
        return "RAdam before it divides by √ν"
    own = found.kind.removeprefix("ScaleBy").removesuffix("State")
    if own == "Adam":
        if found.power == 1:
            return "Adamax"
        return "Yogi" if not found.forgets else "RAdam" if found.rectified else "Adam"
    known = {"Rss": "Adagrad", "Novograd": "NovoGrad"}
    return known.get(own, "RMSProp" if own.startswith(("Rms", "RStdDev")) else own)
