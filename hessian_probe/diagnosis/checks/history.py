"""What the recorded gradient norms, test losses and learning rates show."""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis.confidence import Found, finding, log_confidence, ratio
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.results import number

# Share of the history that counts as its end, and over which recorded test losses are averaged.
END = 0.1
# Test loss at the end ÷ its lowest from which training went on for too long; as `generalisation.GAP`.
GAP = 1.5
# Share of the first test loss that the rise must make up; as `generalisation.MATERIAL`.
MATERIAL = 0.2
SPREAD = 0.15


def check(case: Experiments) -> Found:
    """Record what was given; without test data a recorded test loss that rose again is overfitting."""
    history = case.history or {}
    width = max(1, int(END * len(next(iter(history.values()), ()))))
    for name, text in (("grad_norm", "gradient norm"), ("learning_rate", "learning rate")):
        if name in history:
            values = np.abs(history[name])
            most, last = float(np.nanmax(values)), float(np.nanmedian(values[-width:]))
            said = number(last / most, 3) if most > 0 else "0"
            case.measured[f"recorded {text} at the end ÷ its largest"] = said
    return _overtrained(case, history["test_loss"], width) if "test_loss" in history else []


def _overtrained(case: Experiments, losses: np.ndarray, width: int) -> Found:
    finite = losses[np.isfinite(losses)]
    if len(finite) < 3:
        return []
    smooth = np.convolve(finite, np.ones(width) / width, "valid")
    best = int(np.argmin(smooth))
    low, last, first = float(smooth[best]), float(smooth[-1]), float(finite[0])
    step = f"step {best + width // 2} of the history"
    case.measured["recorded test loss: first, lowest, at the end"] = (
        f"{number(first, 3)}, {number(low, 3)} ({step}), {number(last, 3)}"
    )
    if case.test_samples is not None or not low > 0:
        return []
    rise = log_confidence((last - low) / (MATERIAL * first), 1.0, SPREAD) if first > 0 else 0.0
    gap = ratio(last / low, GAP, SPREAD)
    trained = case.value < first or not math.isfinite(first)
    return [
        finding(
            ("overfitting", "recorded_test_loss"),
            f"the recorded test loss was lowest at {number(low, 3)} and is {number(last, 3)} at the end, "
            f"while the training loss is {number(case.value, 3)}",
            "recorded test loss at the end ÷ its lowest",
            gap,
            source="half as much again, and 0.2 of the first test loss; chosen on synthetic failures",
            sure=min(rise, gap.sure) if trained and case.value < low else 0.0,
            remedy=("regularise", f"stop at {step}, or use weight decay or more data"),
            cost="none: the recorded history",
        )
    ]
