"""Do samples mix where they should not, and is a sum taken for a mean?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis.case import PRIME, is_mean
from hessian_probe.diagnosis.confidence import Found
from hessian_probe.diagnosis.experiments import LIKELY, Experiments
from hessian_probe.diagnosis.faults import fault
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.programs.mixes import Mix

# Samples that are taken once, twice and three times.
SOME = 16
# Share to which they differ by as much each time, and share of them from which the difference counts.
AGREE, GROWN = 1e-3, 0.1


def check(case: Experiments) -> Found:
    """Look for an operation across samples, and take samples out or double them."""
    samples, mix = case.given_samples, case.mix
    if samples is None:
        return [NotChecked((), case.need_of_samples, "samples that mix")]
    pairs, mixed = [case.compared_here], mix is not None and mix.operation != "softmax of one"
    if mixed:  # by a symmetry they may agree here
        pairs += [case.compared(samples, at) for at in case.draws[1:]]
    apart = [pair for pair in pairs if pair is not None and not is_mean(*pair)]
    if not apart:
        return []
    return [_mixed(mix, *apart[0])] if mixed and mix is not None else _summed(case)


def _mixed(mix: Mix, alone: np.ndarray, together: float) -> Finding:
    one, other = (" × ".join("samples" if n == PRIME else str(n) for n in shape) for shape in mix.shapes)
    wrong = f"a reshape from {one} to {other} puts parts of one sample into another"
    mend = "swap the axes by jnp.swapaxes or jnp.transpose before the reshape"
    if mix.operation == "softmax":
        wrong = (
            f"a softmax over the axis of samples, of {one}, makes outputs of a sample depend on the others"
        )
        mend = "take the softmax over the axis of classes, axis=-1"
    mean = float(alone.mean())
    ratio, place = together / mean if mean else math.inf, f"`{mix.operation}`{mix.place}"
    given = {"wrong": wrong, "mend": mend, "count": len(alone), "together": together, "alone": mean}
    return fault("samples_mix", ratio, given, 1.0, place=place)


def _summed(case: Experiments) -> Found:
    """Take the same samples once, twice and three times: a sum grows by as much each time."""
    samples = case.given_samples
    assert samples is not None
    rows = np.arange(min(SOME, samples.size))
    try:
        one, two, three = (case.loss_on(samples.take(np.tile(rows, n)), case.params) for n in (1, 2, 3))
    except Exception:  # whatever a user's loss raises for another number of samples
        return []
    grown, size = two - one, max(abs(one), abs(two))
    if not abs(grown) > GROWN * size or not abs(three - two - grown) <= AGREE * size:
        return []
    ratio = two / one if one else math.inf
    given = {"one": one, "two": two, "three": three, "count": len(rows)}
    return [fault("sum_for_mean", ratio, given, 1.0, sure=LIKELY)]
