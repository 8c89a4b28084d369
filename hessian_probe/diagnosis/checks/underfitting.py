"""The training loss is large: is it the model or the optimisation?"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.diagnosis.confidence import Found, by_factor, log_confidence
from hessian_probe.diagnosis.experiments import BETTER, LIKELY, Context
from hessian_probe.diagnosis.features import FEATURES
from hessian_probe.diagnosis.reference_models import ONE_BATCH
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.trial_runs import best_by_adam
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


def check(context: Context) -> Found:
    """Hold the training loss against simpler models, a richer one, and more training by other means."""
    if context.samples is None:
        need = NotChecked("optimization, model_bias", "data: batches of arrays with samples along axis 0")
        known = context.baseline is not None and np.ndim(context.baseline) == 0
        return [need, _optimization(context, _simpler(context))] if known else [need]
    out: Found = []
    _measure(context)
    simpler = _simpler(context)
    if not simpler:
        simple = (
            f"baseline, or {APPLY}" if context.task is None else "baseline; a linear one is no part of it"
        )
        out.append(NotChecked("optimization, against a simpler model", simple))
    out.append(_decay(context) if context.held_by_decay else _optimization(context, simpler))
    if context.trials and context.decaying is None:
        plain = "an optimizer that does nothing with the parameters but to let them decay"
        out.append(NotChecked("decay of weights", plain))
    if math.isfinite(context.rich):
        out.append(_model_bias(context))
    else:
        out += [NotChecked("model_bias, against a richer model", APPLY), _too_small(context)]
    return out


def _measure(context: Context) -> None:
    before, _, after, _ = context.one_batch
    said = context.measured
    said["loss without any use of the inputs"] = number(context.trivial, 4)
    said[f"loss after {context.num_adam_steps} steps of Adam from here"] = number(context.adam, 4)
    said[f"loss on {ONE_BATCH} samples, before and after training on them"] = (
        f"{number(before, 3)} → {number(after, 3)}"
    )
    said["the same from weights drawn anew"] = number(context.restart, 4)
    said["loss of a linear model trained here"] = number(context.linear, 4)
    said["loss of a rich model trained here, on samples held out"] = number(context.rich, 4)


def _simpler(context: Context) -> dict[str, float]:
    """Training losses that simpler models reach."""
    out = {}
    if math.isfinite(context.linear):
        out[LINEAR] = context.linear
    baseline = context.baseline
    if baseline is not None and np.ndim(baseline) == 0:
        out["the baseline given"] = float(baseline)
    elif baseline is not None:
        loss, params = baseline
        out["the baseline model, trained here"] = _train_baseline(context, loss, params)
    return out


def _train_baseline(context: Context, loss: Callable[..., Any], params: Any) -> float:
    assert context.samples is not None
    context.num_evaluations += 2 * context.num_adam_steps
    batch = jax.tree.map(jnp.asarray, context.samples.batch)
    return best_by_adam(loss, params, batch, context.num_adam_steps)[0]


def _optimization(context: Context, simpler: dict[str, float]) -> Finding:
    """The loss can be lower: a simpler model shows it, or other steps from the same place do."""
    ways = {
        **simpler,
        f"{context.num_adam_steps} steps of Adam from here": context.adam,
        f"{context.num_adam_steps} steps of Adam from weights drawn anew": context.restart,
    }
    ways = {name: loss for name, loss in ways.items() if math.isfinite(loss)}
    name = min(ways, key=lambda way: ways[way]) if ways else ""
    best = ways.get(name, math.nan)
    moved = "" if name in simpler else _moved(context)
    place = "weights drawn anew" if context.restart < context.adam else "here"
    alone = name in simpler and not BETTER * min(context.adam, context.restart) < context.value
    # That this model contains the simpler one is assumed, and no training of its own bears it out.
    stuck = min(context.adam, context.restart) > (1 - STUCK) * context.value
    most = GUESSED if name == LINEAR and stuck and math.isfinite(context.rich) else LIKELY
    here = context.value
    if BETTER * best < here:  # a run that is under way is held by where it gets with as many steps
        here = min(here, context.going_on) if math.isfinite(context.going_on) else here
    factor = here / best if best > 0 else (math.inf if best <= 0 < here else math.nan)
    return by_factor(
        "optimization",
        f"the loss {number(context.value, 3)} is no limit of the model: {name} reaches {number(best, 3)}"
        f"{moved}",
        quantity="training loss (or that after going on, where lower) ÷ what another way reaches",
        number=factor,
        threshold=BETTER,
        spread=SPREAD,
        source=LEE,
        sure=min(log_confidence(factor, BETTER, SPREAD), most) if alone else None,
        experiment=f"Adam with rates 1e-3 and 1e-2 from {place}",
        cost=f"{4 * context.num_adam_steps} full gradients; a linear model by L-BFGS",
    )


def _moved(context: Context) -> str:
    """Say that the own Adam moves what the optimiser holds fixed."""
    if not context.held:
        return ""
    some = ", ".join(context.held[:3]) + (", …" if len(context.held) > 3 else "")
    return f", moving also what the optimizer holds fixed ({some})"


def _decay(context: Context) -> Finding:
    """The same steps without decay of weights end lower than they do at any rate and batch with it."""
    going_on, without = context.trials[1.0].after, context.undecayed
    return by_factor(
        "optimization",
        f"the decay of weights holds the loss up: {context.num_steps} steps without it end at "
        f"{number(without, 3)}, with it at {number(going_on, 3)}",
        quantity="loss after steps with decay of weights ÷ after steps without it",
        number=going_on / without if without > 0 else math.inf,
        threshold=BETTER,
        spread=SPREAD,
        source="more than a decay against learning by heart costs; chosen on the planted troubles",
        experiment="a weaker decay of weights, or none",
        cost=f"{context.num_steps} steps on a copy",
    )


def _model_bias(context: Context) -> Finding:
    """A richer model does better even on samples that it has not seen, and more training does not."""
    rich = context.rich
    reached = float(np.nanmin([context.value, context.own_reached, *(loss for loss, _ in context.ends)]))
    factor = reached / rich if rich > 0 else math.inf
    share = (reached - rich) / context.trivial if context.trivial > 0 else 0.0
    return by_factor(
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
            LIKELY if BETTER * context.reached < reached else 1.0,
        ),
        experiment=_limited(context) or "a wider or deeper model, or more informative inputs",
        cost=f"{4 * context.num_adam_steps} full gradients; small models by L-BFGS",
    )


def _limited(context: Context) -> str:
    """What to do where outputs keep within a range that is too narrow for this loss; empty elsewhere."""
    if not BETTER * context.least > context.value >= context.least:
        return ""
    assert context.task is not None
    (low, high), logits = context.limits, context.task.kind != "squared_error"
    other = " (a loss of logits applies its own)" if logits else ", or bring the targets into its range"
    keep = f"within {low:.0f} and {high:.0f}" if math.isfinite(high) else f"above {low:.0f}"
    return (
        f"take the last activation out of the model{other}: outputs keep {keep} at all parameters "
        f"that were tried, and such a loss cannot fall below {number(context.least, 3)}"
    )


def _too_small(context: Context) -> Finding:
    """Without a richer model: not even a few samples can be fitted by training on them alone."""
    # What is left may be the floor of the loss (smoothed labels, a penalty): one sample alone shows it.
    here, anew, after, floor = context.one_batch
    before, floor = max(here, anew), max(floor, 0.0)
    share = (after - floor) / (before - floor) if before > floor else 0.0
    still = context.value / context.reached if context.reached > 0 else math.inf
    # Where training is hindered a few samples cannot be fitted either: more than likely, and no more.
    sure = min(log_confidence(share, FITTED, WIDE), 1 - log_confidence(still, BETTER, SPREAD), LIKELY)
    return by_factor(
        "model_bias",
        f"{context.num_adam_steps} steps of Adam on {ONE_BATCH} samples alone bring their loss to "
        f"{number(after, 3)} from {number(before, 3)} (the higher of here and drawn anew), "
        f"one of them alone to {number(floor, 3)}: the model cannot fit even these",
        quantity="loss of a few samples, above that of one alone, after training on them ÷ before",
        number=share,
        threshold=FITTED,
        spread=WIDE,
        source="a loss below this share is partly fitted, whatever its scale; chosen on the planted troubles",
        sure=sure,
        experiment="a wider or deeper model",
        cost=f"{4 * context.num_adam_steps} gradients of {ONE_BATCH} samples",
    )
