"""What an optimiser does with a gradient: its linear response and its preconditioner, measured on a copy.

A `GradientTransformation` is opaque: its rate and momentum cannot be read.  They can be measured.  With
the preconditioner held, an update is linear in the gradients of this and earlier steps: a gradient δ in
one step moves variable i by h₀δ, and later steps, with zero gradient, by h₁δ, h₂δ, …  For momentum
hₖ = h₁ρᵏ⁻¹.  The same is measured for the parameters, through which weight decay acts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Vector, flatten, scale
from hessian_probe.optimizers import optax_state as states
from hessian_probe.optimizers.optax_state import UnreadableError
from hessian_probe.optimizers.probe import OptimizerProbe, signs
from hessian_probe.optimizers.thresholds import (
    INVERSE_POWER,
    LOOKAHEAD,
    MOMENT_FACTOR,
    NONLINEAR,
    PROBE_SIZE,
    RESPONSE_STEPS,
    RESPONSE_TOLERANCE,
    SMALL_GRADIENT,
)

# Steps after which every correction of the first steps is gone: half of the largest count in 32 bits.
UNBIASED_STEPS = 2**30


class Preconditioner(NamedTuple):
    """How second moments scale a step.

    Attributes:
        second: for each leaf its second moment, of the leaf's shape or one number for all of it; None where
            it is not known or there is none.
        kind: class name of the node that holds them, "" if the step does not depend on any.
        power: p of a step in proportion to ν⁻ᵖ: 1 for Adamax, else 0.5.
        forgets: whether they shrink when the gradient is zero.
        corrected: whether the bias of their first steps is corrected.
        rectified: whether steps grow with the count by more than the corrections of the bias, as RAdam's.
    """

    second: tuple[Any, ...]
    kind: str
    power: float = 0.5
    forgets: bool = True
    corrected: bool = True
    rectified: bool = False


class ImpulseResponse(NamedTuple):
    """The linear response of an optimiser around its present state.

    Attributes:
        first: for each variable −h₀ ≥ 0, the multiple of the gradient that one step subtracts.
        gain: for each variable −Σ(−1)ᵏhₖ: the same for gradients that alternate in sign.
        decay: for each variable the same for alternating parameters: η·wd for decoupled decay.
        next_share: h₁/h₀, the same for all variables; 0 without momentum.
        ratio: ρ; 0 without momentum.
        accumulation: gradients gathered for one step.
        preconditioner: the second moment that scales the step, and how.
        shortened: length of the step for the present gradient ÷ that of the linear response; below 1
            where clipping is active.  1 where there is a second moment: it hides clipping.
    """

    first: Vector
    gain: Vector
    decay: Vector
    next_share: float
    ratio: float
    accumulation: int
    preconditioner: Preconditioner
    shortened: float

    @property
    def kind(self) -> str:
        """Class name of the node that holds the second moments, or ""."""
        return self.preconditioner.kind


def measure_response(probe: OptimizerProbe, x: Vector, gradient: Vector) -> ImpulseResponse:
    """Measure the response of every variable.

    Returns:
        The response at parameters `x` with the present gradient.

    Raises:
        UnreadableError: it is not a linear response with a single momentum.
    """
    delta = _impulse(probe)
    found = probe.impulse(delta, probe.zero, RESPONSE_STEPS)
    _check_linear(probe, delta, found[0])
    share, ratio = _one_momentum(found, "gradient")
    first = _divided(found[0], delta)
    if min(float(jnp.min(leaf, initial=0.0)) for leaf in first) < 0:
        raise UnreadableError("the optimiser moves some variables up the gradient")
    gain = scale(_alternating(share, ratio), first)
    pulled = probe.impulse(probe.zero, delta, RESPONSE_STEPS)
    decay_share, decay_ratio = _one_momentum(pulled, "parameters")
    idle = _divided(pulled[0], delta)
    decay = scale(_alternating(decay_share, decay_ratio), idle)
    scaling = _measure_preconditioner(probe, delta, flatten(first), ratio)
    _check_size(probe, x, scale(SMALL_GRADIENT, _typical(gradient, scaling)), first, idle)
    shortened = 1.0 if scaling.kind else _step_share(probe, x, gradient, first, idle)
    return ImpulseResponse(first, gain, decay, share, ratio, probe.accumulation, scaling, shortened)


def lr_lookahead(probe: OptimizerProbe, response: ImpulseResponse) -> tuple[tuple[int, float], ...]:
    """Read the learning rate of later steps, with the preconditioner as it is now.

    Schedules change it, and so do the corrections of an optimiser's first steps.

    Returns:
        Pairs (steps from here, learning rate there ÷ here); empty for a constant one.
    """
    found = response.preconditioner
    if found.rectified and not found.kind:
        return ()  # RAdam before it divides by √ν: its rate then is of other steps
    delta, now = _impulse(probe), flatten(response.first)
    after = probe.step(probe.state, probe.zero, probe.zero)[1]
    out = []
    for steps in LOOKAHEAD:
        # How Yogi's second moment fills does not show in its decay.
        state = states.advanced(probe.state, after, steps, corrected=found.corrected, moments=found.forgets)
        out.append((steps, _relative_step(probe, delta, now, state)))
    constant = all(abs(factor - 1) < RESPONSE_TOLERANCE for _, factor in out)
    return () if constant else tuple(out)


def _impulse(probe: OptimizerProbe) -> Vector:
    return scale(PROBE_SIZE, signs(probe.layout))


def _divided(update: Vector, delta: Vector) -> Vector:
    return tuple(jnp.where(u == 0, jnp.zeros_like(u), -u / d) for u, d in zip(update, delta, strict=True))


def _alternating(share: float, ratio: float) -> float:
    """Σ(−1)ᵏhₖ / h₀ for hₖ = h₁ρᵏ⁻¹."""
    return 1 - share / (1 + ratio)


def _step_share(probe: OptimizerProbe, x: Vector, gradient: Vector, first: Vector, decay: Vector) -> float:
    """Length of a step at the parameters themselves ÷ that predicted; NaN if it points elsewhere."""
    update = flatten(probe.step(probe.state, gradient, x)[0])
    expected = -flatten(first) * flatten(gradient) - flatten(decay) * flatten(x)
    if not np.any(expected):
        return 1.0
    share = float(update @ expected / (expected @ expected))
    along = np.linalg.norm(update - share * expected) <= NONLINEAR * np.linalg.norm(update)
    return share if along else float("nan")


def _check_size(probe: OptimizerProbe, x: Vector, gradient: Vector, first: Vector, decay: Vector) -> None:
    if not abs(_step_share(probe, x, gradient, first, decay) - 1) <= NONLINEAR:
        raise UnreadableError(
            "the optimiser's step depends on the size of the parameters or of the whole gradient "
            "(a trust ratio, a normalisation): no linear stability limit"
        )


def _check_linear(probe: OptimizerProbe, delta: Vector, update: Vector) -> None:
    """Twice the gradient with the other sign, and only every second variable: the same response each."""
    expected = flatten(update)
    if not np.any(expected):
        raise UnreadableError(
            f"a gradient of size {PROBE_SIZE} does not move the parameters: the learning rate is 0 here, all "
            "of them are frozen, or the optimiser adds noise that drowns it"
        )
    if not np.all(np.isfinite(expected)):
        raise UnreadableError("the optimiser's step is not finite")
    half = tuple(leaf.ravel().at[::2].set(jnp.zeros((), leaf.dtype)).reshape(leaf.shape) for leaf in delta)
    doubled = flatten(probe.impulse(scale(-2.0, delta), probe.zero, 1)[0]) / -2
    halved = flatten(probe.impulse(half, probe.zero, 1)[0])
    kept = flatten(half) != 0
    top = np.abs(expected)
    if np.any(np.abs(doubled - expected) > RESPONSE_TOLERANCE * top):
        raise UnreadableError(
            "the optimiser's step is not proportional to the gradient even where its preconditioner is held "
            "(a sign, a normalisation, noise): no linear stability limit"
        )
    if np.any(np.abs(halved - expected * kept) > RESPONSE_TOLERANCE * np.where(kept, top, np.max(top))):
        raise UnreadableError("the optimiser's step in one variable depends on the gradient in others")


def _one_momentum(found: list[Vector], of_what: str) -> tuple[float, float]:
    """h₁/h₀ and ρ, where one pair fits all variables."""
    h = np.stack([flatten(step) for step in found])
    moved = h[0] != 0
    if not np.any(moved):
        if np.any(h):
            raise UnreadableError(f"the optimiser responds to the {of_what} only one step later")
        return 0.0, 0.0
    shares = h[1:, moved] / h[0, moved]
    share = float(np.median(shares[0]))
    ratio = float(np.median(shares[1])) / share if share else 0.0
    fitted = share * ratio ** np.arange(RESPONSE_STEPS - 1)
    size = max(abs(share), RESPONSE_TOLERANCE)
    if np.any(np.abs(shares - fitted[:, None]) > 10 * RESPONSE_TOLERANCE * size) or not 0 <= ratio < 1:
        raise UnreadableError(
            f"the optimiser's response to its {of_what} is not that of one momentum for all variables"
        )
    return share, ratio


def _measure_preconditioner(
    probe: OptimizerProbe, delta: Vector, first: np.ndarray, ratio: float
) -> Preconditioner:
    """Find the second moments of the next step, and measure how it depends on them."""
    none = (None,) * len(probe.layout.shapes)
    held, after = probe.state, probe.step(probe.state, probe.zero, probe.zero)[1]
    pairs = [
        (old, new)
        for old, new in zip(states.nodes(held), states.nodes(after), strict=True)
        if states.scaling_fields(new)
    ]
    if not pairs:
        return Preconditioner(none, "")
    kind = " + ".join(type(new).__name__ for _, new in pairs)
    shrunk = _relative_step(probe, delta, first, states.rescaled(held, MOMENT_FACTOR))
    if abs(shrunk - 1) <= RESPONSE_TOLERANCE:  # RAdam's first steps
        return Preconditioner(none, "", rectified="Adam" in kind)
    power = 1.0 if shrunk < MOMENT_FACTOR**-INVERSE_POWER else 0.5
    forgets = all(states.memory_decay(*pair) < 1 for pair in pairs)
    corrected, rectified = _corrections(probe, delta, first, after, ratio)
    second = none
    if len(pairs) == 1:
        second = _by_leaf(probe, states.second_moment(*pairs[0], corrected=corrected))
    return Preconditioner(second, kind, power, forgets, corrected, rectified)


def _typical(gradient: Vector, found: Preconditioner) -> Vector:
    """A gradient of the size that the second moment was made from."""

    def one(leaf: jax.Array, nu: Any) -> jax.Array:
        if nu is None:
            return leaf
        shared = max(leaf.size, 1) if np.size(nu) == 1 else 1  # one number for a leaf is the sum over it
        return jnp.sign(leaf) * ((jnp.abs(nu) ** found.power) / shared**0.5).astype(leaf.dtype)

    return tuple(one(leaf, nu) for leaf, nu in zip(gradient, found.second, strict=True))


def _relative_step(probe: OptimizerProbe, delta: Vector, first: np.ndarray, state: Any) -> float:
    """Step from another state ÷ step from the probe's, for the median variable."""
    update = probe.impulse(delta, probe.zero, 1, state)[0]
    then = flatten(tuple(-u / d for u, d in zip(update, delta, strict=True)))
    return float(np.median(then[first > 0] / first[first > 0]))


def _corrections(
    probe: OptimizerProbe, delta: Vector, first: np.ndarray, after: Any, ratio: float
) -> tuple[bool, bool]:
    """Return whether the second moment's bias is corrected, and whether the step is rectified, as measured.

    Once all corrections are gone, a step has grown by the correction of momentum, or not at all: with the
    second moment left as it is where that is not corrected, with it filled where it is.  A step that grows
    otherwise is rectified.
    """
    counts = [
        int(node.count)
        for node in states.nodes(after)
        if states.scaling_fields(node) and "count" in node._fields
    ]
    if len(counts) != 1:
        return True, False
    count = counts[0]
    heavy = 1 - ratio**count
    nesterov = (1 + ratio) / (ratio / (1 - ratio ** (count + 1)) + 1 / heavy)  # as optax's Nadam
    for corrected in (False, True):
        settled = states.advanced(probe.state, after, UNBIASED_STEPS, corrected=corrected, schedules=False)
        grown = _relative_step(probe, delta, first, settled)
        if min(abs(grown / expected - 1) for expected in (1.0, heavy, nesterov)) <= RESPONSE_TOLERANCE:
            return corrected, False
    return True, True


def _by_leaf(probe: OptimizerProbe, moment: Any) -> tuple[Any, ...]:
    """The second moment of each variable leaf; None where it has neither its shape nor is one number."""
    by_path = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(moment)}
    leaves = [by_path.get(name.removeprefix("params")) for name in probe.layout.names]
    pairs = zip(leaves, probe.layout.shapes, strict=True)
    return tuple(v if v is not None and (np.size(v) == 1 or v.shape == shape) else None for v, shape in pairs)
