"""Where the steps are the trouble: a rate and a momentum from the spectrum, tried."""

from __future__ import annotations

from collections.abc import Sequence

from hessian_probe.diagnosis.experiments import Context
from hessian_probe.diagnosis.result import Finding
from hessian_probe.optimizers.propose_rate import propose_rate
from hessian_probe.results import number

# Causes that a rate or a momentum can mend.
BY_STEPS = ("oscillation", "slow", "ill_conditioned")


def note(context: Context, findings: Sequence[Finding]) -> None:
    """Write down what `propose_rate` brought, where the first finding is one of steps."""
    if not findings or findings[0].cause not in BY_STEPS or context.optimizer is None:
        return
    found = propose_rate(
        context.loss,
        context.params,
        context.given_data,
        optimizer=context.optimizer,
        opt_state=context.opt_state,
    )
    context.num_hvps += found.num_hvps
    context.num_evaluations += found.num_gradients
    if found.proposed is None:
        context.measured["learning rate and momentum from the spectrum"] = f"none: {found.reason}"
        return
    ends = f"{number(found.proposed.loss, 4)} after {found.steps} steps"
    unchanged = f"{number(found.tried[0].loss, 4)} as it is"
    context.measured["learning rate and momentum from the spectrum"] = (
        f"{found.proposed.text} ({found.proposed.name}): loss {ends}, {unchanged}"
    )
