"""The training loss is large: is it the model or the optimisation?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from hessian_probe.diagnosis.confidence import Found, log_confidence, ratio_finding
from hessian_probe.diagnosis.experiments import BETTER, LIKELY, Experiments
from hessian_probe.diagnosis.features import FEATURES
from hessian_probe.diagnosis.reference_models import ONE_BATCH
from hessian_probe.diagnosis.result import Finding, not_checked
from hessian_probe.results import number

SPREAD = 0.15
# Share of the loss without inputs that a richer model must gain.
SHARE = 0.08
WIDE = 0.5
# Share of a few samples' loss without training that is left where even these were not fitted.
FITTED = 0.5
# Most that a linear model trained here is worth alone, where no training moves this model by more than this
# share of its loss: that it contains the linear one is guessed.
GUESSED = 0.6
STUCK = 0.01
LINEAR = "a linear model trained here"
LEE = "a simpler model that does better proves bad optimisation (Lee 2021); margin chosen on planted troubles"
APPLY = "apply(params, inputs) whose outputs give the loss as a cross-entropy or squared error, and targets"


def check(case: Experiments) -> Found:
    """Hold the training loss against simpler models, a richer one, and more training by other means."""
    if case.samples is None:
        need = not_checked(
            ("optimization", "model_bias"), "data: batches of arrays with samples along axis 0"
        )
        known = case.baseline is not None and np.ndim(case.baseline) == 0
        return [need, _optimization(case, _simpler(case))] if known else [need]
    out: Found = []
    _measure(case)
    simpler = _simpler(case)
    if not simpler:
        simple = f"baseline, or {APPLY}" if case.task is None else "baseline; a linear one is no part of it"
        out.append(not_checked(("optimization",), simple, part="against a simpler model"))
    out.append(_decay(case) if case.limited_by_decay else _optimization(case, simpler))
    if case.trials and case.decays_weights is None:
        plain = "an optimizer that does nothing with the parameters but to let them decay"
        out.append(not_checked((), plain, part="decay of weights"))
    if math.isfinite(case.random_feature_loss):
        out.append(_model_bias(case))
    else:
        out += [not_checked(("model_bias",), APPLY, part="against a richer model"), _too_small(case)]
    return out


def _measure(case: Experiments) -> None:
    before, _, after, _ = case.one_batch
    said = case.measured
    said["loss without any use of the inputs"] = number(case.constant_predictor_loss, 4)
    said[f"loss after {case.num_adam_steps} steps of Adam from here"] = number(case.adam_from_here, 4)
    said[f"loss on {ONE_BATCH} samples, before and after training on them"] = (
        f"{number(before, 3)} → {number(after, 3)}"
    )
    said["the same from weights drawn anew"] = number(case.adam_from_reinit, 4)
    said["loss of a linear model trained here"] = number(case.linear_loss, 4)
    said["loss of a rich model trained here, on samples held out"] = number(case.random_feature_loss, 4)


def _simpler(case: Experiments) -> dict[str, float]:
    """Training losses that simpler models reach."""
    out = {}
    if math.isfinite(case.linear_loss):
        out[LINEAR] = case.linear_loss
    baseline = case.baseline
    if baseline is not None and np.ndim(baseline) == 0:
        out["the baseline given"] = float(baseline)
    elif baseline is not None:
        loss, params = baseline
        out["the baseline model, trained here"] = _train_baseline(case, loss, params)
    return out


def _train_baseline(case: Experiments, loss: Callable[..., Any], params: Any) -> float:
    assert case.samples is not None
    return case.best_by_adam(params, case.samples.batch, loss)[0]


def _optimization(case: Experiments, simpler: dict[str, float]) -> Finding:
    """The loss can be lower: a simpler model shows it, or other steps from the same place do."""
    ways = {
        **simpler,
        f"{case.num_adam_steps} steps of Adam from here": case.adam_from_here,
        f"{case.num_adam_steps} steps of Adam from weights drawn anew": case.adam_from_reinit,
    }
    ways = {name: loss for name, loss in ways.items() if math.isfinite(loss)}
    name = min(ways, key=lambda way: ways[way]) if ways else ""
    best = ways.get(name, math.nan)
    moved = "" if name in simpler else _moved(case)
    place = "weights drawn anew" if case.adam_from_reinit < case.adam_from_here else "here"
    alone = name in simpler and not BETTER * min(case.adam_from_here, case.adam_from_reinit) < case.value
    # That this model contains the simpler one is assumed, and no training of its own bears it out.
    stuck = min(case.adam_from_here, case.adam_from_reinit) > (1 - STUCK) * case.value
    most = GUESSED if name == LINEAR and stuck and math.isfinite(case.random_feature_loss) else LIKELY
    here = case.value
    if BETTER * best < here:  # a run that is under way is held by where it gets with as many steps
        here = min(here, case.continued) if math.isfinite(case.continued) else here
    factor = here / best if best > 0 else (math.inf if best <= 0 < here else math.nan)
    return ratio_finding(
        "optimization",
        f"the loss {number(case.value, 3)} is no limit of the model: {name} reaches {number(best, 3)}{moved}",
        quantity="training loss (or that after going on, where lower) ÷ what another way reaches",
        number=factor,
        threshold=BETTER,
        spread=SPREAD,
        source=LEE,
        sure=min(log_confidence(factor, BETTER, SPREAD), most) if alone else None,
        experiment=f"Adam with rates 1e-3 and 1e-2 from {place}",
        cost=f"{4 * case.num_adam_steps} full gradients; a linear model by L-BFGS",
    )


def _moved(case: Experiments) -> str:
    """Say that Adam moves what the optimiser holds fixed."""
    if not case.fixed_by_optimizer:
        return ""
    some = ", ".join(case.fixed_by_optimizer[:3]) + (", …" if len(case.fixed_by_optimizer) > 3 else "")
    return f", moving also what the optimizer holds fixed ({some})"


def _decay(case: Experiments) -> Finding:
    """The same steps without decay of weights end lower than they do at any rate and batch with it."""
    going_on, without = case.trials[1.0].after, case.without_weight_decay
    return ratio_finding(
        "optimization",
        f"the decay of weights holds the loss up: {case.num_steps} steps without it end at "
        f"{number(without, 3)}, with it at {number(going_on, 3)}",
        quantity="loss after steps with decay of weights ÷ after steps without it",
        number=going_on / without if without > 0 else math.inf,
        threshold=BETTER,
        spread=SPREAD,
        source="more than a decay against learning by heart costs; chosen on the planted troubles",
        experiment="a weaker decay of weights, or none",
        cost=f"{case.num_steps} steps on a copy",
    )


def _model_bias(case: Experiments) -> Finding:
    """A richer model does better even on samples that it has not seen, and more training does not."""
    rich = case.random_feature_loss
    reached = float(np.nanmin([case.value, case.best_of_model, *(loss for loss, _ in case.lower_points)]))
    factor = reached / rich if rich > 0 else math.inf
    share = (reached - rich) / case.constant_predictor_loss if case.constant_predictor_loss > 0 else 0.0
    return ratio_finding(
        "model_bias",
        f"no way of training it came below {number(reached, 3)}; {3 * FEATURES} random features, fitted "
        f"linearly, reach {number(rich, 3)} on samples they were not fitted to",
        quantity="best loss of this model ÷ held-out loss of a richer one",
        number=factor,
        threshold=BETTER,
        spread=SPREAD,
        source="a richer model that does better on held-out samples; margin chosen on the planted troubles",
        # A simpler model that does better speaks against it.
        sure=min(
            log_confidence(factor, BETTER, SPREAD),
            log_confidence(share, SHARE, WIDE),
            LIKELY if BETTER * case.best_seen < reached else 1.0,
        ),
        experiment=_limited(case) or "a wider or deeper model, or more informative inputs",
        cost=f"{4 * case.num_adam_steps} full gradients; small models by L-BFGS",
    )


def _limited(case: Experiments) -> str:
    """What to do where outputs keep within a range that is too narrow for this loss; empty elsewhere."""
    if not BETTER * case.loss_floor > case.value >= case.loss_floor:
        return ""
    assert case.task is not None
    (low, high), logits = case.output_range, case.task.kind != "squared_error"
    other = " (a loss of logits applies its own)" if logits else ", or bring the targets into its range"
    keep = f"within {low:.0f} and {high:.0f}" if math.isfinite(high) else f"above {low:.0f}"
    return (
        f"take the last activation out of the model{other}: outputs keep {keep} at all parameters "
        f"that were tried, and such a loss cannot fall below {number(case.loss_floor, 3)}"
    )


def _too_small(case: Experiments) -> Finding:
    """Without a richer model: not even a few samples can be fitted by training on them alone."""
    # What is left may be the floor of the loss (smoothed labels, a penalty): one sample alone shows it.
    here, anew, after, floor = case.one_batch
    before, floor = max(here, anew), max(floor, 0.0)
    share = (after - floor) / (before - floor) if before > floor else 0.0
    still = case.value / case.best_seen if case.best_seen > 0 else math.inf
    # Where training is hindered a few samples cannot be fitted either: more than likely, and no more.
    sure = min(log_confidence(share, FITTED, WIDE), 1 - log_confidence(still, BETTER, SPREAD), LIKELY)
    return ratio_finding(
        "model_bias",
        f"{case.num_adam_steps} steps of Adam on {ONE_BATCH} samples alone bring their loss to "
        f"{number(after, 3)} from {number(before, 3)} (the higher of here and drawn anew), "
        f"one of them alone to {number(floor, 3)}: the model cannot fit even these",
        quantity="loss of a few samples, above that of one alone, after training on them ÷ before",
        number=share,
        threshold=FITTED,
        spread=WIDE,
        source="a loss below this share is partly fitted, whatever its scale; chosen on the planted troubles",
        sure=sure,
        experiment="a wider or deeper model",
        cost=f"{4 * case.num_adam_steps} gradients of {ONE_BATCH} samples",
    )
