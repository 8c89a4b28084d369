"""What an optimiser does with a gradient, measured on a copy of its state.

A `GradientTransformation` is opaque: its rate and momentum cannot be read.  They can be measured.  With
the preconditioner held, an update is linear in the gradients of this and earlier steps: a gradient δ in
one step moves variable i by h₀δ, and later steps, with zero gradient, by h₁δ, h₂δ, …  For momentum
hₖ = h₁ρᵏ⁻¹.  The same is done for the parameters, through which weight decay acts.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, scale
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.preconditioner import Preconditioner, measure_preconditioner, typical
from hessian_probe.optimizers.probe import SIZE, OptimizerProbe, signs

# Answers agree when they differ by this share: rounding of float32 over a few steps is below 1e-5.
AGREE = 1e-3
# At the parameters themselves a gradient this much smaller than usual is tried; it adds SMALL² to the
# second moment.  The answer is off by more than ROUGH only where the step is not linear.
SMALL = 1e-4
ROUGH = 0.02
# Steps of the response that are measured: one more than determine h₀, h₁ and ρ, twice.
STEPS = 6


class ImpulseResponse(NamedTuple):
    """The linear response of an optimiser around its present state.

    Attributes:
        first: for each variable −h₀ ≥ 0, what one step takes of the gradient.
        gain: for each variable −Σ(−1)ᵏhₖ: the same for gradients that alternate in sign.
        decay: for each variable the same for alternating parameters: η·wd for decoupled decay.
        next_share: h₁/h₀, the same for all variables; 0 without momentum.
        ratio: ρ; 0 without momentum.
        accumulation: gradients gathered for one step.
        scaling: the second moment that scales the step, and how.
        shortened: length of the step for the present gradient ÷ that of the linear response; below 1
            where clipping is active.  1 where there is a second moment: it hides clipping.
    """

    first: Vector
    gain: Vector
    decay: Vector
    next_share: float
    ratio: float
    accumulation: int
    scaling: Preconditioner
    shortened: float

    @property
    def kind(self) -> str:
        """Class name of the node that holds the second moments, or ""."""
        return self.scaling.kind


def measure_response(probe: OptimizerProbe, x: Vector, gradient: Vector) -> ImpulseResponse:
    """Measure the response of every variable.

    Args:
        probe: the optimiser.
        x: the parameters.
        gradient: the present gradient.

    Returns:
        Response.

    Raises:
        UnreadableError: it is not a linear response with a single momentum.
    """
    delta = scale(SIZE, signs(probe.layout))
    found = probe.impulse(delta, probe.zero, STEPS)
    _check_linear(probe, delta, found[0])
    share, ratio = _shape(found, "gradient")
    first = _divided(found[0], delta)
    if min(float(jnp.min(leaf, initial=0.0)) for leaf in first) < 0:
        raise UnreadableError("the optimiser moves some variables up the gradient")
    gain = scale(_alternating(share, ratio), first)
    pulled = probe.impulse(probe.zero, delta, STEPS)
    decay_share, decay_ratio = _shape(pulled, "parameters")
    decay = scale(_alternating(decay_share, decay_ratio), _divided(pulled[0], delta))
    scaled = measure_preconditioner(probe, delta, _flat(first), ratio)
    idle = _divided(pulled[0], delta)
    _check_size(probe, x, scale(SMALL, typical(gradient, scaled)), first, idle)
    shortened = 1.0 if scaled.kind else _step_share(probe, x, gradient, first, idle)
    return ImpulseResponse(first, gain, decay, share, ratio, probe.accumulation, scaled, shortened)


def _divided(update: Vector, delta: Vector) -> Vector:
    return tuple(jnp.where(u == 0, jnp.zeros_like(u), -u / d) for u, d in zip(update, delta, strict=True))


def _alternating(share: float, ratio: float) -> float:
    """Σ(−1)ᵏhₖ / h₀ for hₖ = h₁ρᵏ⁻¹."""
    return 1 - share / (1 + ratio)


def _step_share(probe: OptimizerProbe, x: Vector, gradient: Vector, first: Vector, decay: Vector) -> float:
    """Length of a step at the parameters themselves ÷ that predicted; NaN if it points elsewhere."""
    update = _flat(probe.step(probe.state, gradient, x)[0])
    expected = -_flat(first) * _flat(gradient) - _flat(decay) * _flat(x)
    if not np.any(expected):
        return 1.0
    share = float(update @ expected / (expected @ expected))
    return (
        share if np.linalg.norm(update - share * expected) <= ROUGH * np.linalg.norm(update) else float("nan")
    )


def _check_size(probe: OptimizerProbe, x: Vector, gradient: Vector, first: Vector, decay: Vector) -> None:
    if not abs(_step_share(probe, x, gradient, first, decay) - 1) <= ROUGH:
        raise UnreadableError(
            "the optimiser's step depends on the size of the parameters or of the whole gradient "
            "(a trust ratio, a normalisation): no linear stability limit"
        )


def _flat(vector: Vector) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.asarray(leaf, np.float64).ravel() for leaf in vector)])


def _check_linear(probe: OptimizerProbe, delta: Vector, update: Vector) -> None:
    """Twice the gradient with the other sign, and only every second variable: the same answer each."""
    expected = _flat(update)
    if not np.any(expected):
        raise UnreadableError(
            f"a gradient of size {SIZE} does not move the parameters: the learning rate is 0 here, all of "
            "them are frozen, or the optimiser adds noise that drowns it"
        )
    if not np.all(np.isfinite(expected)):
        raise UnreadableError("the optimiser's step is not finite")
    half = tuple(leaf.ravel().at[::2].set(jnp.zeros((), leaf.dtype)).reshape(leaf.shape) for leaf in delta)
    doubled = _flat(probe.impulse(scale(-2.0, delta), probe.zero, 1)[0]) / -2
    halved = _flat(probe.impulse(half, probe.zero, 1)[0])
    kept = _flat(half) != 0
    top = np.abs(expected)
    if np.any(np.abs(doubled - expected) > AGREE * top):
        raise UnreadableError(
            "the optimiser's step is not proportional to the gradient even where its preconditioner is held "
            "(a sign, a normalisation, noise): no linear stability limit"
        )
    if np.any(np.abs(halved - expected * kept) > AGREE * np.where(kept, top, np.max(top))):
        raise UnreadableError("the optimiser's step in one variable depends on the gradient in others")


def _shape(found: list[Vector], of_what: str) -> tuple[float, float]:
    """h₁/h₀ and ρ, where one pair fits all variables."""
    h = np.stack([_flat(step) for step in found])
    moved = h[0] != 0
    if not np.any(moved):
        if np.any(h):
            raise UnreadableError(f"the optimiser answers to the {of_what} only one step later")
        return 0.0, 0.0
    shares = h[1:, moved] / h[0, moved]
    share = float(np.median(shares[0]))
    ratio = float(np.median(shares[1])) / share if share else 0.0
    fitted = share * ratio ** np.arange(STEPS - 1)
    scale_of = max(abs(share), AGREE)
    if np.any(np.abs(shares - fitted[:, None]) > 10 * AGREE * scale_of) or not 0 <= ratio < 1:
        raise UnreadableError(
            f"the optimiser's answer to its {of_what} is not that of one momentum for all variables"
        )
    return share, ratio
