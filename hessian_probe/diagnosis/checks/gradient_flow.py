"""Does the gradient reach the first layer, and does it arrive in bounds?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.case import MAX_SINGLE
from hessian_probe.diagnosis.confidence import Found, log_confidence
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.layer_jacobians import layer_gradients
from hessian_probe.diagnosis.result import Finding, not_checked
from hessian_probe.results import number

# Layers below which "by layer" means nothing.
FEWEST = 4
# Factor from the last layer's gradient to the first's, chosen on the tuning half of the planted troubles.
FACTOR = 100.0
SPREAD = 0.5
# Share of the gradient that arrives both before and after a layer, below which it is no part of their way.
BESIDE = 1e-3


def check(case: Experiments) -> Found:
    """Fit the logarithm of the gradient's norm at each layer's output by a line."""
    both = ("vanishing_gradients", "exploding_gradients")
    samples = case.samples
    if samples is None:
        return [not_checked(both, "data: batches of arrays with samples along axis 0")]
    rows = np.sort(case.rng.permutation(samples.size)[:MAX_SINGLE])
    batch = jax.tree.map(jnp.asarray, samples.take(rows))
    try:
        norms, loops = layer_gradients(case.loss, case.params, batch)
    except (TypeError, ValueError, NotImplementedError) as error:
        return [not_checked(both, f"a program that can be run in parts; {error}")]
    case.num_evaluations += 1
    if len(norms) < FEWEST or not norms[-1] > 0:
        need = "layers outside scan, while and cond" if loops else f"at least {FEWEST} layers"
        return [not_checked(both, need)]
    case.measured["gradient norm by layer, first to last"] = ", ".join(number(n, 2) for n in norms)
    norms = [n for n, aside in zip(norms, _off_path(norms), strict=True) if not aside]
    logs = np.log(np.maximum(norms, 1e-30 * norms[-1]))
    places = np.arange(len(logs))
    slope, start = np.polyfit(places, logs, 1)
    rest = float(np.std(logs - slope * places - start, ddof=2))
    fall = math.exp(slope * (len(logs) - 1))  # last ÷ first
    spread = max(SPREAD, rest)
    return [
        _finding("vanishing_gradients", fall, spread, len(norms)),
        _finding("exploding_gradients", 1 / fall, spread, len(norms)),
    ]


def _off_path(norms: Sequence[float]) -> list[bool]:
    """Whether each layer is beside the way: far more of the gradient arrives both before and after it."""
    # So it is in the branches of an attention that make its weights.
    before = [0.0, *itertools.accumulate(norms, max)]
    after = [0.0, *itertools.accumulate(reversed(norms), max)][::-1]
    return [n < BESIDE * min(before[i], after[i + 1]) for i, n in enumerate(norms)]


def _finding(cause: str, factor: float, spread: float, layers: int) -> Finding:
    shrinks = cause == "vanishing_gradients"
    way = "shrinks" if shrinks else "grows"
    return Finding(
        cause=cause,
        claim=f"from the last of {layers} layers to the first the gradient {way} {number(factor, 3)}-fold",
        quantity="gradient at the last layer ÷ at the first"
        if shrinks
        else "gradient at the first ÷ at the last",
        number=factor,
        low=factor * math.exp(-2 * spread),
        high=factor * math.exp(2 * spread),
        threshold=FACTOR,
        source="chosen on the planted troubles (make bench-diagnose)",
        confidence=log_confidence(factor, FACTOR, spread),
        experiment=(
            "start again with weights of variance 1/inputs (2/inputs for ReLU), and tanh or ReLU for sigmoid"
            if shrinks
            else "start again with weights of variance 1/inputs (2/inputs for ReLU)"
        ),
        cost="one gradient over 512 samples",
    )
