"""Are the optimiser's steps too short?  Longer ones are tried on copies."""

from __future__ import annotations

import math
from typing import NamedTuple

from hessian_probe.diagnosis.confidence import EVEN, Found, log_confidence, ratio_finding
from hessian_probe.diagnosis.experiments import LIKELY, MATERIAL, Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding
from hessian_probe.optimizers.trial_runs import Trial
from hessian_probe.results import number

SPREAD = 0.5
# A longer step gains this many times as much.
FASTER = 3.0
# A gain below this share of the loss is rounding (40 steps in float32 stay below it).
STILL = 1e-4
# On a slope, steps a factor longer gain at most that factor more; where they gain more than this many times
# as much, they left a plateau instead.
BEYOND_SLOPE = 10.0
# Steps within which a rising schedule may mend it.
SOON = 1000


class ShortStepSign(NamedTuple):
    """A sign that steps are too short."""

    sure: float
    text: str
    quantity: str
    number: float
    threshold: float
    source: str
    steps: int


def check(case: Experiments) -> Found:
    """Hold longer steps against steps as they are."""
    if not case.trials:
        return []  # said by the check of the steps
    return [_ended(case) if case.no_step_moves else _slow(case)]


def _slow(case: Experiments) -> Finding:
    """Longer steps gain far more, and in proportion: it is a slope that they go down."""
    longer = [f for f in case.trials if f > 1]
    best = max(case.best_factor, min(longer))
    signs = [_farther(case, best)]
    large = not case.value < LARGE * case.constant_predictor_loss
    if signs[0].sure < EVEN and case.best_factor > 1 and large:
        signs.append(_later(case, best) if signs[0].number > FASTER else _sooner(case, best))
    sign = max(signs, key=lambda sign: sign.sure)
    stability = case.stability
    room = ""
    if stability is not None and stability.ratio < 1 and stability.status != "undetermined":
        room = f" (sharpness is {number(stability.ratio, 2)} of the stability limit)"
    return ratio_finding(
        "slow",
        f"the rate is too small{room}: {sign.text}{_rising(case)}",
        quantity=sign.quantity,
        number=sign.number,
        threshold=sign.threshold,
        spread=SPREAD,
        source=sign.source,
        # Where a shorter step gains most the rate is not too small, whatever a longer one gains.
        sure=0.0 if case.best_factor < 1 else min(sign.sure, LIKELY if _rising(case) else 1.0),
        experiment=f"multiply the learning rate by {best:.3g}",
        cost=f"{case.num_steps * len(longer) + sum(sign.steps for sign in signs)} steps on a copy",
    )


def _rising(case: Experiments) -> str:
    """Say that the schedule makes the rate larger by itself; empty where it does not."""
    found = case.stability
    ahead = [] if found is None else [(n, by) for n, by in found.schedule if by > FASTER and n <= SOON]
    if not ahead:
        return ""
    return f"; its schedule makes it {ahead[0][1]:.3g} times as large in {ahead[0][0]} steps by itself"


def _farther(case: Experiments, best: float) -> ShortStepSign:
    """As many steps at a multiple of the rate gain many times as much."""
    trials = case.trials
    slope = _by_slope({f: t.gain for f, t in trials.items()}, best)
    return _gained(case, best, trials[1.0].after, trials[best].after, case.num_steps, slope)


def _later(case: Experiments, best: float) -> ShortStepSign:
    """The same in more steps, where few gain little."""
    count, unchanged, longer = case.num_adam_steps, case.continued, case.continued_at(best)
    gains = {f: Trial(case.value, after).gain for f, after in ((1.0, unchanged), (best, longer))}
    return _gained(case, best, unchanged, longer, count, _by_slope(gains, best))


def _gained(
    case: Experiments, best: float, unchanged: float, longer: float, count: int, slope: float
) -> ShortStepSign:
    step, far = case.value - unchanged, case.value - longer
    gain = case.gain(unchanged, longer)
    faster = far / step if step > 0 else (math.inf if far > 0 else 0.0)
    return ShortStepSign(
        min(
            log_confidence(faster, FASTER, SPREAD),
            log_confidence(gain, MATERIAL, SPREAD),
            log_confidence(BEYOND_SLOPE * slope, 1.0, SPREAD),
        ),
        f"{best:.3g} times the rate gains {number(faster, 3)} times as much in {count} steps, "
        f"{number(100 * gain, 2)} % of the loss more",
        "decrease with a longer step ÷ decrease as it is",
        faster,
        FASTER,
        "a rate within a factor 3 of a good one is not the trouble; chosen on planted troubles",
        0 if count == case.num_steps else 2 * count,
    )


def _sooner(case: Experiments, best: float) -> ShortStepSign:
    """Steps at a multiple of the rate end lower than several times as many steps as they are."""
    few, longer, many = case.trials[1.0].after, case.trials[best].after, case.num_adam_steps
    unchanged, gain = case.continued, case.gain(few, longer)
    factor = unchanged / longer if longer > 0 else 0.0
    rises = not unchanged <= few  # longer steps would only do so sooner
    return ShortStepSign(
        0.0 if rises else min(log_confidence(factor, 1.0, SPREAD), log_confidence(gain, MATERIAL, SPREAD)),
        f"{case.num_steps} steps at {best:.3g} times the rate end at {number(longer, 3)}, {many} steps as "
        f"they are at {number(unchanged, 3)}",
        f"loss after {many} steps ÷ after {case.num_steps} longer ones",
        factor,
        1.0,
        "as far in a fifth of the steps; chosen on planted troubles",
        many,
    )


def _by_slope(gains: dict[float, float], best: float) -> float:
    """Gain that a slope allows at the best factor, from the smallest one that gains anything, ÷ the gain."""
    seen = {f: gain for f, gain in gains.items() if gain > STILL and f <= best}
    if best not in seen:
        return math.inf
    first = min(seen)
    if first == best and best > 1:  # nothing at all was gained by steps a fourth to a sixteenth as long
        before = max(f for f in gains if f < best)
        return STILL * best / before / seen[best]
    return seen[first] * best / first / seen[best]


def _ended(case: Experiments) -> Finding:
    """No step of any length moves, and with the schedule at its beginning they do: it has come to its end."""
    again = case.schedule_restarted
    assert again is not None
    gain = case.gain(case.value, again.after)
    what = f"loss after {case.num_steps} steps with the optimiser's state as at its start"
    case.measured[what] = number(again.after, 4)
    return ratio_finding(
        "slow",
        "the optimiser does not move any more: its rate has come down to nothing, and with its schedule "
        f"at the beginning {case.num_steps} steps gain {number(100 * gain, 2)} % of the loss",
        quantity="share of the loss that the schedule's beginning gains",
        number=gain,
        threshold=MATERIAL,
        spread=SPREAD,
        source="share of the loss that is worth it; chosen on planted troubles",
        experiment="opt_state = optimizer.init(params): start the schedule again, with a longer one",
        cost=f"{case.num_steps} steps on a copy",
    )
