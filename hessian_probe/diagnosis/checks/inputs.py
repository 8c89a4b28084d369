"""Are the inputs on a scale that training can work with?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis.confidence import Found, finding, ratio
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import NotChecked
from hessian_probe.results import number

# Rules of thumb behind LeCun et al. 1998 (Efficient BackProp, section 4.3: mean 0, variance 1, about the
# same for all inputs).  Factors beyond which it hurt were chosen on round 1 of the synthetic failures.
LARGE = 10.0
UNEVEN = 1000.0
FAR = 25.0
SPREAD = 0.25
SOURCE = (
    "inputs of mean 0 and variance 1, LeCun et al. 1998, section 4.3; factor chosen on synthetic failures"
)
STANDARDISE = "subtract each input's mean, divide by its standard deviation, and train again"


def check(case: Experiments) -> Found:
    """Compare the size of the inputs with 1, and the size of each with the others'."""
    samples = case.samples
    if samples is None or samples.inputs is None:
        return [NotChecked(("input_scale",), "data as (inputs, targets) or a dict with such names")]
    if samples.inputs.dtype.kind != "f":
        return []  # tokens have no scale
    flat = samples.inputs.reshape(samples.size, -1).astype(np.float64)
    if not np.all(np.isfinite(flat)):
        return [NotChecked(("input_scale",), "inputs that are finite numbers")]
    size = float(np.sqrt(np.mean(flat**2)))
    each = np.sqrt(np.mean(flat**2, axis=0))
    each = each[each > 0]
    spread = float(np.quantile(each, 0.95) / np.quantile(each, 0.05)) if len(each) else 1.0
    case.measured["root mean square of the inputs"] = number(size, 3)
    case.measured["large inputs ÷ small ones"] = number(spread, 3)
    offset = _offset(flat)
    case.measured["mean of the inputs ÷ their standard deviation"] = number(offset, 3)
    off = max(size, 1 / size) if size > 0 else math.inf
    large = f"the inputs have root mean square {number(size, 3)}; training expects about 1"
    far = f"the mean of the inputs is {number(offset, 3)} times their standard deviation"
    uneven = f"some inputs are {number(spread, 3)} times as large as others"
    faults = [
        ("size", large, "root mean square of the inputs, or its inverse", ratio(off, LARGE, SPREAD)),
        ("uneven", uneven, "95 % ÷ 5 % quantile of sizes", ratio(spread, UNEVEN, SPREAD)),
        ("offset", far, "mean of the inputs ÷ their standard deviation", ratio(offset, FAR, SPREAD)),
    ]
    reason, claim, quantity, measure = max(faults, key=lambda fault: fault[-1].sure)
    return [
        finding(
            ("input_scale", reason),
            claim,
            quantity,
            measure,
            source=SOURCE,
            remedy=("standardise_inputs", STANDARDISE),
            cost="one pass over the inputs",
        )
    ]


def _offset(flat: np.ndarray) -> float:
    """Norm of the means ÷ norm of the standard deviations; constant inputs do not count."""
    deviation = flat.std(axis=0)
    varies = deviation > 0
    if not np.any(varies):
        return 0.0
    return float(np.linalg.norm(flat.mean(axis=0)[varies]) / np.linalg.norm(deviation[varies]))
