"""The training loss is large: is it the model or the optimisation?"""

from __future__ import annotations

import math

import numpy as np

from hessian_probe.diagnosis.case import OfParams
from hessian_probe.diagnosis.confidence import Found, finding, log_confidence, ratio
from hessian_probe.diagnosis.experiments import BETTER, LIKELY, Experiments
from hessian_probe.diagnosis.features import FEATURES
from hessian_probe.diagnosis.reference_models import ONE_BATCH
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.results import number

SPREAD = 0.15
# Share of the constant's loss that a richer model must gain.
SHARE = 0.08
WIDE = 0.5
# A few samples count as not fitted where this share of their untrained loss is left.
FITTED = 0.5
# Confidence of a linear model alone where no training lowers this model's loss by more than the share STUCK:
# that this model contains the linear one is assumed.
GUESSED = 0.6
STUCK = 0.01
LINEAR = "a linear model trained here"
LEE = (
    "a simpler model that does better proves bad optimisation (Lee 2021); margin chosen on synthetic failures"
)
APPLY = "apply(params, inputs) whose outputs give the loss as a cross-entropy or squared error, and targets"


def check(case: Experiments) -> Found:
    """Compare the training loss with simpler models, a richer one, and other training."""
    out: Found = []
    if case.whole is None:
        out.append(NotChecked(("optimization", "model_bias"), case.need_of_samples))
        if case.baseline is not None and np.ndim(case.baseline) == 0:
            out.append(_optimization(case, _simpler(case)))
        return out
    if case.samples is not None:
        _measure(case)
    simpler = _simpler(case)
    if not simpler:
        need = f", or {APPLY}" if case.task is None else "; this model contains no linear one"
        out.append(NotChecked(("optimization",), f"baseline{need}", "against a simpler model"))
    if case.limited_by_decay:
        out.append(_decay(case))
    elif case.samples is not None or simpler:  # how far Adam should get is not known without a scale
        out.append(_optimization(case, simpler))
    if case.trials and case.decays_weights is None:
        plain = "an optimiser that uses the parameters for nothing but weight decay"
        out.append(NotChecked((), plain, "weight decay"))
    if case.samples is None:
        out.append(NotChecked(("model_bias",), case.need_of_samples))
    elif math.isfinite(case.random_feature_loss):
        out.append(_model_bias(case))
    else:
        out += [NotChecked(("model_bias",), APPLY, "against a richer model"), _too_small(case)]
    return out


def _measure(case: Experiments) -> None:
    before, _, after, _ = case.one_batch
    fitted, said = f"{number(before, 3)} → {number(after, 3)}", case.measured
    said["loss of the best constant output"] = number(case.constant_predictor_loss, 4)
    said[f"loss after {case.num_adam_steps} steps of Adam from here"] = number(case.adam_from_here, 4)
    said[f"loss on {ONE_BATCH} samples, before and after training on them"] = fitted
    said["the same from re-initialised weights"] = number(case.adam_from_reinit, 4)
    said["loss of a linear model trained here"] = number(case.linear_loss, 4)
    said["loss of random features trained here, on held-out samples"] = number(case.random_feature_loss, 4)


def _simpler(case: Experiments) -> dict[str, float]:
    """Training losses that simpler models reach."""
    out = {}
    if math.isfinite(case.linear_loss):
        out[LINEAR] = case.linear_loss
    baseline = case.baseline
    if baseline is not None and np.ndim(baseline) == 0:
        out["the baseline given"] = float(baseline)
    elif baseline is not None:
        assert case.whole is not None
        loss, params = baseline if case.given_data is not None else (OfParams(baseline[0]), baseline[1])
        out["the baseline model, trained here"] = case.best_by_adam(params, case.whole.batch, loss)[0]
    return out


def _optimization(case: Experiments, simpler: dict[str, float]) -> Finding:
    """The loss can be lower: a simpler model shows it, or Adam from here or from re-initialised weights."""
    adam = f"{case.num_adam_steps} steps of Adam from"
    by_adam = {f"{adam} here": case.adam_from_here, f"{adam} re-initialised weights": case.adam_from_reinit}
    losses = {name: loss for name, loss in {**simpler, **by_adam}.items() if math.isfinite(loss)}
    name = min(losses, key=lambda name: losses[name]) if losses else ""
    best = losses.get(name, math.nan)
    anew = case.adam_from_reinit < case.adam_from_here
    alone = name in simpler and not BETTER * min(case.adam_from_here, case.adam_from_reinit) < case.value
    # That this model contains the simpler one is assumed, and no training of its own confirms it.
    stuck = min(case.adam_from_here, case.adam_from_reinit) > (1 - STUCK) * case.value
    most = GUESSED if name == LINEAR and stuck and math.isfinite(case.random_feature_loss) else LIKELY
    here = case.value
    if BETTER * best < here:  # a run that still descends counts with what it reaches in as many steps
        here = min(here, case.continued) if math.isfinite(case.continued) else here
    factor = here / best if best > 0 else (math.inf if best <= 0 < here else math.nan)
    measure = ratio(factor, BETTER, SPREAD)
    code, where = ("adam_from_reinit", "re-initialised weights") if anew else ("adam", "here")
    return finding(
        ("optimization", "simpler_model" if name in simpler else f"adam_from_{'reinit' if anew else 'here'}"),
        f"the loss {number(case.value, 3)} is not the model's limit: {name} reaches {number(best, 3)}",
        "training loss (or that after training on, where lower) ÷ the lowest loss of the others",
        measure,
        source=LEE,
        sure=min(measure.sure, most) if alone else None,
        remedy=(code, f"Adam with rates 1e-3 and 1e-2 from {where}"),
        cost=f"{4 * case.num_adam_steps} full gradients; a linear model by L-BFGS",
    )


def _decay(case: Experiments) -> Finding:
    """Steps without weight decay end lower than steps with it at any rate and batch size."""
    with_decay, without = case.trials[1.0].after, case.without_weight_decay
    return finding(
        ("optimization", "weight_decay"),
        f"weight decay keeps the loss high: {case.num_steps} steps without it end at "
        f"{number(without, 3)}, with it at {number(with_decay, 3)}",
        "loss after steps with weight decay ÷ after steps without it",
        ratio(with_decay / without if without > 0 else math.inf, BETTER, SPREAD),
        source="more than weight decay against overfitting costs; chosen on synthetic failures",
        remedy=("reduce_weight_decay", "a weaker weight decay, or none"),
        cost=f"{case.num_steps} steps on a copy",
    )


def _model_bias(case: Experiments) -> Finding:
    """A richer model does better, even on held-out samples, and more training of this one does not."""
    rich = case.random_feature_loss
    reached = float(np.nanmin([case.value, case.best_of_model, *(loss for loss, _ in case.lower_points)]))
    measure = ratio(reached / rich if rich > 0 else math.inf, BETTER, SPREAD)
    share = (reached - rich) / case.constant_predictor_loss if case.constant_predictor_loss > 0 else 0.0
    # A simpler model that does better is evidence against it.
    most = LIKELY if BETTER * case.best_seen < reached else 1.0
    return finding(
        ("model_bias", "richer_model"),
        f"no training of this model came below {number(reached, 3)}; a linear model on {3 * FEATURES} random "
        f"features reaches {number(rich, 3)} on held-out samples",
        "best loss of this model ÷ held-out loss of a richer one",
        measure,
        source="a richer model that does better on held-out samples; margin chosen on synthetic failures",
        sure=min(measure.sure, log_confidence(share, SHARE, WIDE), most),
        remedy=("larger_model", "a wider or deeper model, or more informative inputs"),
        cost=f"{4 * case.num_adam_steps} full gradients; small models by L-BFGS",
    )


def _too_small(case: Experiments) -> Finding:
    """Without a richer model: training on a few samples alone does not fit even these."""
    # What is left may be the floor of the loss (smoothed labels, a penalty): one sample alone measures it.
    here, anew, after, floor = case.one_batch
    before, floor = max(here, anew), max(floor, 0.0)
    left = ratio((after - floor) / (before - floor) if before > floor else 0.0, FITTED, WIDE)
    above = case.value / case.best_seen if case.best_seen > 0 else math.inf
    return finding(
        ("model_bias", "few_samples"),
        f"the model cannot fit even {ONE_BATCH} samples: {case.num_adam_steps} steps of Adam on them alone "
        f"lower their loss from {number(before, 3)} (the higher of here and re-initialised) to "
        f"{number(after, 3)}; a single one of them reaches {number(floor, 3)}",
        "loss of a few samples, above that of one alone, after training on them ÷ before",
        left,
        source="below this share the samples are partly fitted; chosen on synthetic failures",
        # Where training is hindered a few samples cannot be fitted either: the confidence stays below strong.
        sure=min(left.sure, 1 - log_confidence(above, BETTER, SPREAD), LIKELY),
        remedy=("larger_model", "a wider or deeper model"),
        cost=f"{4 * case.num_adam_steps} gradients of {ONE_BATCH} samples",
    )
