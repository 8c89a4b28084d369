"""Are the inputs on a scale that training can work with?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis.context import Context
from hessian_probe.diagnosis.evidence import Found, log_confidence
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.results import number

# Rules of thumb behind LeCun et al. 1998 (Efficient BackProp, section 4.3: mean 0, variance 1, about the
# same for all inputs).  Factors beyond which it hurt were chosen on the tuning half of the planted troubles.
LARGE = 10.0
UNEVEN = 1000.0
SPREAD = 0.25
SOURCE = (
    "inputs of mean 0 and variance 1, LeCun et al. 1998, section 4.3; factor chosen on the planted troubles"
)


def check(context: Context) -> Found:
    """Compare the size of the inputs with 1, and the size of each with the others'."""
    samples = context.samples
    if samples is None or samples.inputs is None:
        return [NotChecked("input_scale", "train as (inputs, targets) or a dict with such names")]
    if samples.inputs.dtype.kind != "f":
        return []  # tokens have no scale
    flat = samples.inputs.reshape(samples.size, -1).astype(np.float64)
    size = float(np.sqrt(np.mean(flat**2)))
    each = np.sqrt(np.mean(flat**2, axis=0))
    each = each[each > 0]
    spread = float(np.quantile(each, 0.95) / np.quantile(each, 0.05)) if len(each) else 1.0
    context.measured["root mean square of the inputs"] = number(size, 3)
    context.measured["large inputs ÷ small ones"] = number(spread, 3)
    off = max(size, 1 / size) if size > 0 else math.inf
    by_size = log_confidence(off, LARGE, SPREAD)
    by_spread = log_confidence(spread, UNEVEN, SPREAD)
    first = by_size >= by_spread
    share = off if first else spread
    claim = (
        f"the inputs have root mean square {number(size, 3)} instead of about 1"
        if first
        else f"some inputs are {number(spread, 3)} times as large as others"
    )
    return [
        Finding(
            cause="input_scale",
            claim=claim,
            quantity="root mean square of the inputs, or its inverse"
            if first
            else "95 % ÷ 5 % quantile of sizes",
            number=share,
            low=share * math.exp(-2 * SPREAD),
            high=share * math.exp(2 * SPREAD),
            threshold=LARGE if first else UNEVEN,
            source=SOURCE,
            confidence=max(by_size, by_spread),
            experiment="subtract each input's mean, divide by its deviation, and train again",
            cost="one pass over the inputs",
        )
    ]
