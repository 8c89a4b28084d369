"""Does the loss diverge, or is something not finite?"""

from __future__ import annotations

import math
from functools import partial

import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import first_nonfinite
from hessian_probe.diagnosis.confidence import MOST, Found, exact, finding, log_confidence, ratio
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.ranking import NOTHING_LEARNT
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.samples import Samples, count_nonfinite, finite_rows
from hessian_probe.optimizers.trial_runs import map_trained
from hessian_probe.results import number

# A loss RISE times its lowest diverges; SPREAD is the error of that ratio's logarithm on noisy curves.  Both
# were chosen on round 1 of the synthetic failures.
RISE = 2.0
SPREAD = 0.35
# The history is smoothed over a twentieth of its length; the largest of the medians exceeds the others by
# OUTLIERS standard deviations by chance.
WINDOWS = 20
OUTLIERS = 3.0
# A run that ended below this share of its first loss has recovered.
RECOVERED = 0.9
# It diverged later if it lost again this share of what it had gained.
LOST = 0.3
# Share of the history that counts as its end.
LAST = 0.1


def check(case: Experiments) -> Found:
    """Look for numbers that are not finite, then for a loss that rises."""
    where = first_nonfinite(case.op.layout, case.op.x) or ("" if math.isfinite(case.value) else "the loss")
    if where and case.samples is not None and _from_data(case, case.samples):
        return [_of_data(count_nonfinite(case.samples))]
    if where:
        return [_finding("not_finite", f"{where} is not finite")]
    if case.history is None or "loss" not in case.history:
        return [NotChecked(("divergence",), "history={'loss': […]}, the losses of past steps")]
    losses = case.history["loss"]
    finite = np.isfinite(losses)
    if not finite[-1]:
        return [_finding("history_not_finite", "the last recorded loss is not finite")]
    if not np.all(finite):  # the run recovered
        case.measured["recorded losses that are not finite"] = f"{np.sum(~finite)} of {len(losses)}"
        losses = losses[finite]
    smooth, noise = _smoothed(losses)
    last = float(np.median(losses[-max(1, int(LAST * len(losses))) :]))
    lowest = float(np.min(smooth))
    before, first = np.minimum.accumulate(smooth), float(smooth[0])
    peak = int(np.argmax(smooth / before)) if lowest > 0 else 0
    rise = float(smooth[peak] / before[peak]) if lowest > 0 else math.nan
    said = f"{number(rise, 3)}, {number(last / first if first else math.nan, 3)}"
    case.measured["largest rise of the loss, and at the end ÷ first"] = said
    limit = RISE * math.exp(OUTLIERS * noise)
    # It recovered, unless it ends far above its lowest, with much of what it had gained lost again.
    if last < RECOVERED * first:
        stays = last / lowest if last - lowest > LOST * (first - lowest) else 0.0
        rise, peak = stays, len(smooth) - 1
    sure = log_confidence(rise, limit, SPREAD)
    claim = (
        f"the loss rose from {number(before[peak], 3)} to {number(smooth[peak], 3)} (step {peak} of the "
        f"history) and ended at {number(last, 3)}; it started at {number(first, 3)}"
    )
    if losses[0] > 0:  # a single step can be enough to blow up
        worst, reached = float(np.max(losses)), ""
        nothing = case.samples is not None and worst > RISE * losses[0]
        if nothing and case.value > NOTHING_LEARNT * case.constant_predictor_loss:  # such as units it killed
            reached = f", reached {number(worst, 3)} (step {int(np.argmax(losses))})"
        at_once, single = (worst if reached else last) / losses[0], noise * math.sqrt(_width(losses))
        sure_of_it = log_confidence(at_once, RISE * math.exp(OUTLIERS * single), SPREAD)
        if sure_of_it > sure:
            told = (
                f"the loss was {number(losses[0], 3)} at the first step{reached} and is {number(last, 3)} at"
            )
            return [_finding("first_step", f"{told} the end", at_once, sure_of_it)]
    return [_finding("rise", claim, rise, sure)]


def _smoothed(losses: np.ndarray) -> tuple[np.ndarray, float]:
    """Running median of the losses, and the noise left in its logarithm, by successive differences."""
    width = _width(losses)
    smooth = np.median(np.lib.stride_tricks.sliding_window_view(losses, width), axis=-1)
    # A run can diverge in its first steps, so the start has a median of its own.
    smooth = np.append(np.median(losses[: max(1, width // 3)]), smooth)
    if np.min(losses) <= 0 or len(losses) < 3:
        return smooth, 0.0
    steps = np.abs(np.diff(np.log(losses)))
    # 1.4826: standard deviation ÷ median absolute deviation; 1.25: error of a median ÷ error of a mean.
    return smooth, 1.4826 * float(np.median(steps)) / math.sqrt(2) * 1.25 / math.sqrt(width)


def _width(losses: np.ndarray) -> int:
    return min(2 * (len(losses) // WINDOWS // 2) + 1, len(losses))


def _from_data(case: Experiments, samples: Samples) -> bool:
    """Whether samples with numbers that are not finite make the loss not finite, and the others do not."""
    rows = finite_rows(samples)
    if np.all(rows):
        return False
    start = map_trained(partial(jnp.nan_to_num, posinf=0, neginf=0), case.params)
    parts = [samples.take(np.flatnonzero(some)) for some in (~rows, rows) if np.any(some)]
    finite = [math.isfinite(case.loss_on(part, start)) for part in parts]
    return not finite[0] and all(finite[1:])


def _of_data(count: int) -> Finding:
    """The loss is not finite because numbers in the data are not."""
    cure = "leave out the samples with such numbers, or fill them in; the step size is not the cause"
    return finding(
        ("divergence", "data_not_finite"),
        f"{count} numbers in the training data are not finite, and so the loss or its gradient is not",
        "numbers in the training data that are not finite",
        exact(float(count)),
        source="a mean over samples is finite only if each sample's loss is",
        remedy=("repair_data", cure),
        cost="one pass over the data",
    )


def _finding(reason: str, claim: str, rise: float = math.inf, sure: float = MOST) -> Finding:
    cure = "go back to the parameters from before it rose and train on with a tenth of the learning rate"
    return finding(
        ("divergence", reason),
        claim,
        "loss ÷ lowest loss before it, at most",
        ratio(rise, RISE, SPREAD),
        sure=sure,
        remedy=("roll_back", cure),
        cost="none: the recorded history",
    )
