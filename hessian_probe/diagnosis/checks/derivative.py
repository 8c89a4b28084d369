"""Is the gradient finite, and that of the loss?"""

from __future__ import annotations

from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.points.preconditions import derivative_fault

CURES = {
    "gradient_nonfinite": "keep the operand of that operation away from where its derivative is infinite, by "
    "jnp.where on the operand or a small number added to it; no learning rate helps",
    "derivative_not_of_loss": "train on a loss that has that derivative, or give this one its own; what is "
    "held on purpose belongs into a closure, not into params",
    "loss_jumps": "replace the jump by a smooth function (a sigmoid, a softmax), or search without gradients",
}


def check(case: Experiments) -> Found:
    """Name what is wrong with the derivative, and the line of code."""
    fault = derivative_fault(case.op)
    if fault is None:
        return []
    return [
        finding(
            ("derivative", fault.code),
            str(fault),
            "faults of the derivative",
            exact(1.0),
            source="the loss changes along a line as its slopes there allow",
            remedy=("repair_loss", CURES[fault.code]),
            cost="a gradient; four more and up to 72 losses where a derivative may be replaced",
        )
    ]
