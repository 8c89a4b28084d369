"""Do samples mix where they should not, and is a sum taken for a mean?"""

from __future__ import annotations

import numpy as np

from hessian_probe.diagnosis.case import PRIME, is_mean
from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import LIKELY, Experiments
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.programs.mixes import Mix
from hessian_probe.results import number

# Samples that are taken once, twice and three times.
SOME = 16
# Share to which two of these losses differ by as much as the other two.
AGREE = 1e-3


def check(case: Experiments) -> Found:
    """Look for an operation across samples, and take samples out or double them."""
    if case.given_samples is None:
        return [NotChecked((), case.need_of_samples, "samples that mix")]
    mix = case.mix
    pairs = [case.compared_here] if mix is None or mix.operation == "softmax of one" else _pairs(case)
    apart = [pair for pair in pairs if pair is not None and not is_mean(*pair)]
    if not apart:
        return []
    if mix is None or mix.operation == "softmax of one":
        return _summed(case)
    return [_mixed(mix, *apart[0])]


def _pairs(case: Experiments) -> list[tuple[np.ndarray, float] | None]:
    """Losses alone and together, here and at other parameters: by a symmetry they may agree here."""
    assert case.given_samples is not None
    return [case.compared_here, *(case.compared(case.given_samples, at) for at in case.draws[1:])]


def _mixed(mix: Mix, alone: np.ndarray, together: float) -> Finding:
    one, other = (" × ".join("samples" if n == PRIME else str(n) for n in shape) for shape in mix.shapes)
    softmax = mix.operation == "softmax"
    wrong = (
        f"a softmax over the axis of samples (of {one}) makes the outputs of a sample depend on the others"
        if softmax
        else f"a reshape from {one} to {other} puts parts of one sample into another"
    )
    return finding(
        ("program", "samples_mix"),
        f"{wrong}. The loss of {len(alone)} samples is {number(together, 3)}, the mean of their losses, each "
        f"alone, {number(alone.mean(), 3)}",
        "loss of some samples ÷ mean of their losses",
        exact(together / alone.mean() if alone.mean() else np.inf, 1.0),
        source="samples that do not mix have a loss that is the mean of theirs, to rounding",
        remedy=(
            ("softmax_over_classes", "take the softmax over the axis of classes, axis=-1")
            if softmax
            else ("transpose", "swap the axes by jnp.swapaxes or jnp.transpose before the reshape")
        ),
        cost="the program, and losses of single samples",
        place=f"`{mix.operation}`{mix.place}",
    )


def _summed(case: Experiments) -> Found:
    """Take the same samples once, twice and three times: a sum grows by as much each time."""
    samples = case.given_samples
    assert samples is not None
    rows = np.arange(min(SOME, samples.size))
    try:
        one, two, three = (case.loss_on(samples.take(np.tile(rows, n)), case.params) for n in (1, 2, 3))
    except Exception:  # whatever a user's loss raises for another number of samples
        return []
    grown = two - one
    size = max(abs(one), abs(two))
    if not abs(grown) > 0.1 * size or not abs(three - two - grown) <= AGREE * size:
        return []
    return [
        finding(
            ("program", "sum_for_mean"),
            f"this loss is a sum over samples, not a mean: a step is as many times as long as a batch has "
            f"samples. {len(rows)} samples have a loss of {number(one, 3)}, taken twice {number(two, 3)}, "
            f"three times {number(three, 3)}",
            "loss of samples taken twice ÷ taken once",
            exact(two / one if one else np.inf, 1.0),
            source="a mean does not change where each sample is taken twice",
            sure=LIKELY,
            remedy=(
                "take_the_mean",
                "take the mean over samples, or divide the loss by their number",
            ),
            cost="three losses of a few samples",
        )
    ]
