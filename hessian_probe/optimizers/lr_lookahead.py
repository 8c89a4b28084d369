"""What a schedule, and the corrections of an optimiser's first steps, make of its learning rate from here."""

from __future__ import annotations

import numpy as np

from hessian_probe.arrays import Vector, scale
from hessian_probe.optimizers.impulse_response import AGREE, ImpulseResponse
from hessian_probe.optimizers.probe import SIZE, OptimizerProbe, signs
from hessian_probe.optimizers.second_moments import advanced

# Steps ahead at which the learning rate is read.
AHEAD = (10, 100, 1000, 10000)


def lr_lookahead(probe: OptimizerProbe, response: ImpulseResponse) -> tuple[tuple[int, float], ...]:
    """Read the learning rate ahead, the preconditioner as it is now.

    Args:
        probe: the optimiser.
        response: its measured response.

    Returns:
        Pairs (steps from here, learning rate there ÷ here); empty for a constant one.
    """
    found = response.scaling
    if found.rectified and not found.kind:
        return ()  # RAdam before it divides by √ν: its rate then is of other steps
    delta: Vector = scale(SIZE, signs(probe.layout))
    now = _flat(response.first)
    after = probe.step(probe.state, probe.zero, probe.zero)[1]
    out = []
    for steps in AHEAD:
        # How Yogi's second moment fills does not show in its decay.
        state = advanced(probe.state, after, steps, corrected=found.corrected, moments=found.forgets)
        update = probe.impulse(delta, probe.zero, 1, state)[0]
        then = _flat(tuple(-u / d for u, d in zip(update, delta, strict=True)))
        out.append((steps, float(np.median(then[now > 0] / now[now > 0]))))
    constant = all(abs(factor - 1) < AGREE for _, factor in out)
    return () if constant else tuple(out)


def _flat(vector: Vector) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.asarray(leaf, np.float64).ravel() for leaf in vector)])
