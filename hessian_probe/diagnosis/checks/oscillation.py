"""Are the optimiser's steps too long?  Shorter ones are tried on copies."""

from __future__ import annotations

from hessian_probe.diagnosis.confidence import Found, Sign, confidence, finding, log_confidence
from hessian_probe.diagnosis.experiments import MATERIAL, Experiments
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.trial_runs import Trial
from hessian_probe.results import number

SPREAD = 0.5
# Oscillation: from here the sharpness is at the limit (see stability.EDGE).
AT_LIMIT = 0.95
SPREAD_OF_RATIO = 0.05
# Or: the share of steps in which the gradient along the top eigenvector changes sign.  Momentum crosses a
# valley in several steps.
FLIPS = 0.3
SPREAD_OF_FLIPS = 0.1
# Share of the gain of shorter steps from which larger batches are the better explanation.
MOST_OF_IT = 0.5
SHARPNESS = "sharpness ÷ stability limit"


def check(case: Experiments) -> Found:
    """Try the user's optimiser for some steps at several rates."""
    if not case.trials:
        missing = ["optimizer and opt_state"] if case.optimizer is None else []
        need = " and ".join([*missing, *([case.need_of_samples] if case.whole is None else [])])
        found = case.known_stability
        if found is not None:  # needs no samples
            case.measured[SHARPNESS] = number(found.ratio, 4)
        return [NotChecked(("oscillation", "slow", "noise"), case.trials_failed or need)]
    text = ", ".join(f"× {f:.3g}: {number(t.after, 4)}" for f, t in case.trials.items())
    case.measured[f"loss after {case.num_steps} steps at multiples of the rate"] = text
    out: Found = []
    stability = case.stability
    if stability is not None and stability.status == "undetermined" and not case.uphill:
        out.append(NotChecked((), "; ".join(stability.evidence), "sharpness against the stability limit"))
    if case.no_step_moves:  # steps of length zero show nothing about others
        return [*out, NotChecked(("oscillation",), "steps that move the parameters: none does here")]
    return [*out, _oscillation(case)]


def _oscillation(case: Experiments) -> Finding:
    """Shorter steps gain, and one of three signs shows that they gain because they are shorter."""
    gain = _shorter(case, case.trials)
    gains = log_confidence(gain, MATERIAL, SPREAD)
    sign = max(_signs(case, gains), key=lambda sign: sign.sure)
    best = min((f for f in case.trials if f < 1), key=lambda f: case.trials[f].after)
    found, known = case.known_stability, ""
    if found is not None:
        known = f"sharpness is {number(found.ratio, 3)} of the limit of {found.method}, "
    return finding(
        ("oscillation", sign.reason),
        f"steps are too long: {known}{sign.quantity} = {number(sign.number, 3)}, and {best:.3g} times the "
        f"rate lowers the loss by {number(100 * gain, 3)} % more",
        sign.quantity,
        sign.measure,
        source=sign.source,
        sure=min(gains, sign.sure, 1 - _noise_explains(case, gain)),
        remedy=(
            "multiply_rate",
            f"lower the learning rate, or decay it from here: multiply it by {best:.3g}",
        ),
        factor=best,
        cost=f"{5 * case.num_steps} steps on a copy, and the products of hp.stability",
    )


def _noise_explains(case: Experiments, gain: float) -> float:
    """Confidence that full-batch steps at the present rate gain most of what shorter steps do."""
    if case.samples_in_a_step is None or not gain > 0:
        return 0.0
    full = case.gain(case.trials[1.0].after, case.full_batch[1.0].after)
    return log_confidence(full / gain, MOST_OF_IT, SPREAD)


def _signs(case: Experiments, gains: float) -> list[Sign]:
    """Sharpness at the limit, a gradient that alternates in sign, a gain of shorter full-batch steps."""
    # High on the walls of a valley the curvature can be small; the alternating gradient still shows that
    # steps cross it.  On full batches shorter steps cannot gain by averaging noise.
    without_noise = _shorter(case, case.full_batch) if gains >= 0.1 else 0.0
    sure = log_confidence(without_noise, MATERIAL, SPREAD)
    source = "a gain on all samples is not due to the noise of batches; chosen on synthetic failures"
    quantity = "share of the loss that shorter steps on all samples gain"
    signs = [Sign("full_batch_gain", sure, quantity, without_noise, 0.0, MATERIAL, source)]
    found = case.known_stability
    if found is None:
        return signs
    ratio, error = found.ratio, found.error / found.limit
    case.measured[SHARPNESS] = number(ratio, 4)
    limit = f"{found.formula}, {found.source}; at the limit from 0.95 on"
    sure = confidence(ratio - AT_LIMIT, max(error, SPREAD_OF_RATIO))
    signs.append(Sign("sharpness", sure, SHARPNESS, ratio, error, AT_LIMIT, limit))
    if gains >= 0.1 or ratio > AT_LIMIT / 2:
        full = case.steps(None, case.num_steps)
        flips = full.run(case.params, case.opt_state, case.value, 1.0, found.direction).flips
        quantity = "share of steps in which the gradient along the sharpest direction changes sign"
        case.measured[quantity] = number(flips, 2)
        source = "below the limit no sign changes; chosen on synthetic failures"
        sure = confidence(flips - FLIPS, SPREAD_OF_FLIPS)
        signs.append(Sign("sign_changes", sure, quantity, flips, SPREAD_OF_FLIPS, FLIPS, source))
    return signs


def _shorter(case: Experiments, trials: dict[float, Trial]) -> float:
    """Share of the loss that the best shorter step gains over steps at the present rate."""
    return case.gain(trials[1.0].after, min(trial.after for f, trial in trials.items() if f < 1))
