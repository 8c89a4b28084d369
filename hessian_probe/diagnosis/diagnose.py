"""Why is training stuck?  Every check that the arguments allow, ranked by evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from hessian_probe.arrays import PyTree, leaf_name
from hessian_probe.diagnosis.checks import CHECKS, PROGRAM_CHECKS, inputs
from hessian_probe.diagnosis.confidence import EVEN, Found
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.ranking import REST, proved, rank
from hessian_probe.diagnosis.result import Diagnosis, Finding, NotChecked
from hessian_probe.optimizers.propose_rate import propose_rate
from hessian_probe.results import number

# Causes whose gains are measured as shares of the loss.
NEED_POSITIVE_LOSS = (
    "oscillation", "slow", "noise", "ill_conditioned", "saddle", "minimum", "optimization", "model_bias"
)  # fmt: skip
# Causes that another rate or momentum can mend.
BY_STEPS = ("oscillation", "slow", "ill_conditioned")
# Causes that need copies trained with Adam.
BY_ADAM = ("optimization", "model_bias", "saddle", "mismatch")
HISTORY = ("loss", "grad_norm", "test_loss", "learning_rate")
# Reasons for which no check that follows can be made, but that of the inputs; and what these would need.
SOUND = "a program without that fault"
FINITE = "finite parameters, from before the loss diverged"
BLOCKED = {
    "gradient_nonfinite": "a gradient that is finite",
    "not_finite": FINITE,
    "data_not_finite": FINITE,
    **dict.fromkeys(("index_outside", "label_outside", "samples_mix"), SOUND),
    "crossed_samples": "a loss that is a mean over samples: this one is about pairs of them",
}


def diagnose(
    loss: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    test_data: Any = None,
    history: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    opt_state: Any = None,
    apply: Callable[..., Any] | None = None,
    baseline: Any = None,
    trainer: Callable[..., Any] | None = None,
    trial_factor: int = 1,
    key: jax.Array | None = None,
) -> Diagnosis:
    """Find out why training is stuck, by measurements alone.

    Each check compares a measured number with a threshold and turns the distance into a confidence.  Every
    remedy is tried on a copy before it is proposed: the optimiser with shorter and longer steps and with
    larger batches, an escape from a saddle, conjugate gradients along a valley, reference models on the same
    data. `not_checked` lists what could not be measured; training copies with Adam needs optax.
    `hessian_probe.diagnosis.ranking` explains the order: strong evidence first, and among it causes before
    their effects.

    Args:
        loss: `loss(params, batch) -> scalar mean over the batch`, or `loss(params)` without `data`: all that
            needs no samples is checked then, too.
        params: pytree where training stopped.
        data: training data: one batch, or the list of batches that training uses (noise is checked only
            then).  A pair (inputs, targets) or a dict with such names allows more checks.
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        test_data: test data of the same kind.
        history: equal-length arrays: "loss", and optionally "grad_norm", "test_loss", "learning_rate".
        optimizer: the optax transformation in use.
        opt_state: its state at `params`.
        apply: `apply(params, inputs) -> outputs`; allows reference models to be trained on the same task.
        baseline: what a simpler model reaches: its training loss, or a pair (loss, params) to train here.
        trainer: a step of the training, `trainer(params, opt_state, batch) -> (params, opt_state, …)`: two
            are taken, on copies, and held against those of `optimizer`.
        trial_factor: multiplies the 40 steps of the user's optimiser and the 200 of Adam that a trial takes.
            A larger one shows what few steps cannot where training is long; Newton steps and escapes do
            not change.
        key: random key; None means `jax.random.key(0)`, so the same call gives the same answer.

    Returns:
        Diagnosis.

    Raises:
        TypeError: `loss`, `apply` or the data are of the wrong kind; a leaf of `params` is no array;
            `trial_factor` is no whole number.
        ValueError: `params` has no variable, data is empty, `history` is irregular, or `trial_factor` is
            below 1.

    Cost:
        With all arguments, about 1,000 gradients over the training data (times `trial_factor`) and 100 to 300
        Hessian-vector products; 400 more gradients where longer steps gain little, and 400 (1,600 where
        samples are few) where the test data look like another kind.  Memory for one batch of all training
        samples where they are arrays.

    Source:
        H.-y. Lee, What to do if my network fails to train (lecture, 2021): the guide.

    Examples:
        >>> import hessian_probe as hp
        >>> found = hp.diagnose(lambda x: x**2 + 1.0, np.ones(()), history={"loss": [2.0, 2.0, 2.0, 9.0]})
        >>> found.findings[0].cause, found.findings[0].reason, found.findings[0].remedy
        ('divergence', 'rise', 'roll_back')
    """
    for name, function, of in (("apply", apply, "inputs"), ("trainer", trainer, "opt_state and a batch")):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be a function of params and {of}; got {type(function).__name__}")
    if (optimizer is None) != (opt_state is None):
        missing = "opt_state" if opt_state is None else "optimizer"
        raise ValueError(f"{missing} is missing: pass optimizer and opt_state together")
    if optimizer is not None and not callable(getattr(optimizer, "update", None)):
        raise TypeError(f"optimizer must be an optax transformation; got {type(optimizer).__name__}")
    if test_data is not None and data is None:
        raise ValueError("test_data was given without data; pass both, or neither")
    _check_baseline(baseline)
    if isinstance(trial_factor, bool) or not isinstance(trial_factor, int | np.integer):
        raise TypeError(f"trial_factor must be a whole number; got {type(trial_factor).__name__}")
    if trial_factor < 1:
        raise ValueError(f"trial_factor={trial_factor}; expected at least 1, the usual number of steps")
    _check_leaves(params)
    read = None if history is None else _read_history(history)
    given: dict[str, Any] = {"trainable": trainable, "test_data": test_data, "history": read, "key": key}
    given |= {"optimizer": optimizer, "opt_state": opt_state, "apply": apply, "baseline": baseline}
    given["trainer"] = trainer
    case = Experiments(loss, params, data, trial_factor=int(trial_factor), **given)
    return _diagnosis(case, _checked(case))


def _checked(case: Experiments) -> Found:
    """Run the checks; a proved fault of the program ends them, since all else is about another program."""
    found: Found = []
    for check in PROGRAM_CHECKS:
        found += check(case)
        certain = {f.reason for f in found if isinstance(f, Finding) and f.confidence >= EVEN}
        needs = [BLOCKED[reason] for reason in BLOCKED if reason in certain]
        if needs:
            return [*found, *inputs.check(case), NotChecked((), needs[0], REST)]
    if any(map(proved, found)):
        return [*found, *inputs.check(case), NotChecked((), SOUND, REST)]
    return found + [item for check in CHECKS for item in check(case)]


def _check_baseline(baseline: Any) -> None:
    number = isinstance(baseline, int | float | np.generic) or (
        hasattr(baseline, "dtype") and np.ndim(baseline) == 0
    )
    pair = isinstance(baseline, tuple | list) and len(baseline) == 2 and callable(baseline[0])
    if baseline is not None and (isinstance(baseline, bool) or not (number or pair)):
        raise TypeError(
            "baseline must be the training loss of a simpler model, or a pair (loss, params) to train here; "
            f"got {type(baseline).__name__}"
        )


def _check_leaves(params: PyTree) -> None:
    """Refuse leaves that are no arrays: compiled trials take the parameters as arguments."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not isinstance(leaf, int | float) and not (hasattr(leaf, "shape") and hasattr(leaf, "dtype")):
            raise TypeError(
                f"{leaf_name(path)} is a {type(leaf).__name__}; hp.diagnose needs arrays or numbers: pass "
                "the arrays alone, for instance by eqx.partition(model, eqx.is_inexact_array)"
            )


def _diagnosis(case: Experiments, found: Found) -> Diagnosis:
    if math.isfinite(case.value) and case.value <= 0:
        seen = {f.cause for f in found if isinstance(f, Finding) and f.confidence >= EVEN}
        causes = tuple(cause for cause in NEED_POSITIVE_LOSS if cause not in seen)
        found.append(NotChecked(causes, "a positive loss: gains are measured as shares of it"))
    if case.adam_failed:
        found.append(NotChecked(BY_ADAM, case.adam_failed, "by training copies with Adam"))
    missing = [item for item in found if isinstance(item, NotChecked)]
    findings = rank(case, [item for item in found if isinstance(item, Finding)], missing)
    _propose_rate(case, findings)
    spent, measured = (case.cost.num_hvps, case.cost.num_evaluations), tuple(case.measured.items())
    return Diagnosis(findings, tuple(missing), case.value, measured, *spent, case.variables)


def _propose_rate(case: Experiments, findings: Sequence[Finding]) -> None:
    """Record what `propose_rate` proposes, where the first finding is about steps."""
    if not findings or findings[0].cause not in BY_STEPS or case.optimizer is None:
        return
    found = propose_rate(case.loss, case.params, case.given_data, **case.of_optimizer)
    case.cost.enter(found)
    said = f"none: {'; '.join(found.evidence)}"
    if found.proposed is not None:
        said = (
            f"{found.proposed.text} ({found.proposed.name}): loss {number(found.proposed.loss, 4)} after "
            f"{found.steps} steps, {number(found.tried[0].loss, 4)} as it is"
        )
    case.measured["learning rate and momentum from the spectrum"] = said


def _read_history(history: Mapping[str, Any]) -> dict[str, np.ndarray]:
    if not isinstance(history, Mapping):
        got = type(history).__name__
        raise TypeError(f"history must map names to arrays, e.g. {{'loss': […]}}; got {got}")
    unknown = sorted(set(map(str, history)) - set(HISTORY))
    if unknown:
        raise ValueError(f"history has unknown entries {unknown}; expected some of {list(HISTORY)}")
    for name, values in history.items():
        if not isinstance(values, Sequence) and not hasattr(values, "__array__"):
            got = type(values).__name__
            raise TypeError(
                f"history[{name!r}] must be an array or a list of numbers; got {got}: pass list(…)"
            )
    arrays = {name: np.asarray(values, np.float64) for name, values in history.items()}
    lengths = {name: values.shape for name, values in arrays.items()}
    if any(len(shape) != 1 for shape in lengths.values()) or len(set(lengths.values())) > 1:
        raise ValueError(f"history has arrays of shapes {lengths}; expected equal lengths, one axis")
    if any(len(values) == 0 for values in arrays.values()):
        raise ValueError("history is empty; leave it out, or record at least one step")
    return arrays
