"""Does the gradient keep its size from the last layer to the first?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from hessian_probe.diagnosis.confidence import Found, finding, ratio
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.layer_jacobians import layer_gradients
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.results import number

# Layers below which "by layer" means nothing.
FEWEST = 4
# Factor from the last layer's gradient to the first's, chosen on round 1 of the synthetic failures.
FACTOR = 100.0
SPREAD = 0.5
# A layer is off the path where its gradient is below this share of one before it and of one after it.
OFF_PATH = 1e-3


def check(case: Experiments) -> Found:
    """Fit a line to the logarithm of the gradient's norm at each layer's output."""
    both = ("vanishing_gradients", "exploding_gradients")
    samples = case.samples
    if samples is None:
        return [NotChecked(both, case.need_of_samples)]
    try:
        norms, loops = layer_gradients(case.loss, case.params, case.random_batch(samples))
    except (TypeError, ValueError, NotImplementedError) as error:
        return [NotChecked(both, f"a program that can be run in parts; {error}")]
    case.cost.add(gradients=1)
    if len(norms) < FEWEST or not norms[-1] > 0:
        need = "layers outside scan, while and cond" if loops else f"at least {FEWEST} layers"
        return [NotChecked(both, need)]
    case.measured["gradient norm by layer, first to last"] = ", ".join(number(n, 2) for n in norms)
    norms = [n for n, off in zip(norms, off_path(norms), strict=True) if not off]
    logs = np.log(np.maximum(norms, 1e-30 * norms[-1]))
    places = np.arange(len(logs))
    slope, start = np.polyfit(places, logs, 1)
    rest = float(np.std(logs - slope * places - start, ddof=2))
    fall = math.exp(slope * (len(logs) - 1))  # last ÷ first
    factors = zip(both, (fall, 1 / fall), strict=True)
    return [_finding(cause, factor, max(SPREAD, rest), len(norms)) for cause, factor in factors]


def off_path(norms: Sequence[float]) -> list[bool]:
    """Whether each layer is off the path: far larger gradients arrive both before and after it."""
    # For instance the branches of an attention that compute its weights.
    before = [0.0, *itertools.accumulate(norms, max)]
    after = [0.0, *itertools.accumulate(reversed(norms), max)][::-1]
    return [n < OFF_PATH * min(before[i], after[i + 1]) for i, n in enumerate(norms)]


def _finding(cause: str, factor: float, spread: float, layers: int) -> Finding:
    shrinks = cause == "vanishing_gradients"
    verb, ends = ("shrinks", ("last layer", "first")) if shrinks else ("grows", ("first", "last"))
    more = ", and use tanh or ReLU instead of sigmoid" if shrinks else ""
    return finding(
        (cause, "norm_by_layer"),
        f"the gradient {verb} by a factor of {number(factor, 3)} from the last of {layers} layers to "
        "the first",
        f"gradient at the {ends[0]} ÷ at the {ends[1]}",
        ratio(factor, FACTOR, spread),
        remedy=(
            "reinitialise",
            f"re-initialise the weights with variance 1/inputs (2/inputs for ReLU){more}",
        ),
        cost="one gradient over 512 samples",
    )
