"""Are the optimiser's steps too short?  Longer ones are tried on copies."""

from __future__ import annotations

import math

from hessian_probe.diagnosis.confidence import EVEN, Found, Sign, finding, joint_confidence, ratio
from hessian_probe.diagnosis.experiments import LIKELY, MATERIAL, SOON, Experiments
from hessian_probe.diagnosis.reference_models import LARGE
from hessian_probe.diagnosis.result import Finding
from hessian_probe.optimizers.trial_runs import Trial
from hessian_probe.results import number

SPREAD = 0.5
# Longer steps must gain this many times as much as steps at the present rate.
FASTER = 3.0
# A gain below this share of the loss is rounding (40 steps in float32 stay below it).
STILL = 1e-4
# On a slope, steps longer by a factor gain at most that factor more; where they gain more than BEYOND_SLOPE
# times that, they left a plateau instead.
BEYOND_SLOPE = 10.0
RESTART = "restart the schedule (opt_state = optimizer.init(params)), and make it longer"


def check(case: Experiments) -> Found:
    """Compare longer steps with steps at the present rate."""
    if not case.trials:
        return []  # the check of oscillation says what is missing
    return [_ended(case) if case.no_step_moves else _slow(case)]


def _slow(case: Experiments) -> Finding:
    """Longer steps gain far more, in proportion to their length: they descend a slope."""
    longer = [f for f in case.trials if f > 1]
    best = max(case.best_factor, min(longer))
    signs = [_farther(case, best, {f: trial.after for f, trial in case.trials.items()})]
    large = not case.value < LARGE * case.constant_predictor_loss
    steps = case.num_steps * len(longer)
    if signs[0].sure < EVEN and case.best_factor > 1 and large:
        if signs[0].number > FASTER:  # a longer trial, where a short one gains little
            ends = {1.0: case.continued, best: case.continued_at(best)}
            signs.append(_farther(case, best, ends, many=True))
            steps += 2 * case.num_adam_steps
        else:
            signs.append(_sooner(case, best))
            steps += case.num_adam_steps
    sign = max(signs, key=lambda sign: sign.sure)
    rise, stability = _scheduled_rise(case), case.known_stability
    rising = "" if rise is None else f"; its schedule multiplies it by {rise[1]:.3g} within {rise[0]} steps"
    room = ""
    if stability is not None and stability.ratio < 1:
        room = f" (sharpness is {number(stability.ratio, 2)} of the stability limit)"
    return finding(
        ("slow", sign.reason),
        f"the learning rate is too small{room}: {sign.text}{rising}",
        sign.quantity,
        ratio(sign.number, sign.threshold, SPREAD),
        source=sign.source,
        # Where the best step is a shorter one the rate is not too small, whatever a longer one gains.
        sure=0.0 if case.best_factor < 1 else min(sign.sure, 1.0 if rise is None else LIKELY),
        remedy=("multiply_rate", f"multiply the learning rate by {best:.3g}"),
        factor=best,
        cost=f"{steps} steps on a copy",
    )


def _scheduled_rise(case: Experiments) -> tuple[int, float] | None:
    """Steps until the schedule has raised the rate by far, and by how much; None where it does not."""
    schedule = () if case.stability is None else case.stability.schedule
    return next(((n, by) for n, by in schedule if by > FASTER and n <= SOON), None)


def _farther(case: Experiments, best: float, ends: dict[float, float], *, many: bool = False) -> Sign:
    """Steps at the best multiple of the rate gain many times as much as at the present one."""
    count = case.num_adam_steps if many else case.num_steps
    step, far = case.value - ends[1.0], case.value - ends[best]
    gain = case.gain(ends[1.0], ends[best])
    slope = _by_slope({f: Trial(case.value, after).gain for f, after in ends.items()}, best)
    faster = far / step if step > 0 else (math.inf if far > 0 else 0.0)
    sure = joint_confidence(SPREAD, (faster, FASTER), (gain, MATERIAL), (BEYOND_SLOPE * slope, 1.0))
    quantity = "decrease with longer steps ÷ decrease at the present rate"
    source = "a rate within a factor 3 of a good one is not too small; chosen on synthetic failures"
    text = (
        f"{count} steps at {best:.3g} times the rate lower the loss {number(faster, 3)} times as much as at "
        f"the present rate ({number(100 * gain, 3)} % of the loss more)"
    )
    reason = "larger_rate_in_more_steps" if many else "larger_rate"
    return Sign(reason, sure, quantity, faster, 0.0, FASTER, source, text)


def _sooner(case: Experiments, best: float) -> Sign:
    """Steps at a multiple of the rate end lower than five times as many steps at the present rate."""
    few, longer, many = case.trials[1.0].after, case.trials[best].after, case.num_adam_steps
    unchanged, gain = case.continued, case.gain(few, longer)
    factor = unchanged / longer if longer > 0 else 0.0
    rises = not unchanged <= few  # longer steps would only do so sooner
    sure = 0.0 if rises else joint_confidence(SPREAD, (factor, 1.0), (gain, MATERIAL))
    quantity = f"loss after {many} steps ÷ after {case.num_steps} longer ones"
    source = "as far in a fifth of the steps; chosen on synthetic failures"
    text = (
        f"{case.num_steps} steps at {best:.3g} times the rate end at {number(longer, 3)}, {many} steps at "
        f"the present rate at {number(unchanged, 3)}"
    )
    return Sign("fewer_steps", sure, quantity, factor, 0.0, 1.0, source, text)


def _by_slope(gains: dict[float, float], best: float) -> float:
    """Gain that a slope allows at the best factor, by the smallest factor that gains, ÷ the gain there."""
    seen = {f: gain for f, gain in gains.items() if gain > STILL and f <= best}
    if best not in seen:
        return math.inf
    first = min(seen)
    if first == best and best > 1:  # steps a fourth to a sixteenth as long gained nothing at all
        before = max(f for f in gains if f < best)
        return STILL * best / before / seen[best]
    return seen[first] * best / first / seen[best]


def _ended(case: Experiments) -> Finding:
    """No step of any length moves, and with the schedule restarted they do: the schedule has ended."""
    steps, initial = case.steps(case.samples_in_a_step, case.num_steps), case.optimizer.init(case.params)
    after = steps.run(case.params, initial, case.value).after
    gain = case.gain(case.value, after)
    case.measured[f"loss after {case.num_steps} steps with the schedule restarted"] = number(after, 4)
    return finding(
        ("slow", "schedule_ended"),
        "the optimiser no longer moves: its schedule has reduced the rate to zero; with the schedule "
        f"restarted {case.num_steps} steps lower the loss by {number(100 * gain, 3)} %",
        "share of the loss that steps gain with the schedule restarted",
        ratio(gain, MATERIAL, SPREAD),
        source="least share of the loss that counts; chosen on synthetic failures",
        remedy=("restart_schedule", RESTART),
        cost=f"{case.num_steps} steps on a copy",
    )
