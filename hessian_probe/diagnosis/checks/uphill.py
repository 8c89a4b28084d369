"""Do updates descend in every leaf of the parameters?"""

from __future__ import annotations

from hessian_probe.diagnosis.confidence import Found, exact, finding
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import NotChecked
from hessian_probe.optimizers.thresholds import MOST_CALLS
from hessian_probe.optimizers.uphill import uphill_text

NEGATE = (
    "end the transformation of these leaves in a negative rate (optax.scale(-rate)), or hold them fixed by "
    "optax.set_to_zero() in optax.partition; optax.masked hands on the raw gradient of what it leaves out, "
    "and another rate does not help"
)


def check(case: Experiments) -> Found:
    """Name the leaves whose updates point up their gradient."""
    leaves = case.uphill
    if leaves is None:
        given = case.optimizer is not None
        need = "an optimiser that takes steps here" if given else "optimizer and opt_state"
        return [NotChecked(("uphill",), need)]
    if not leaves:
        return []
    factors = [leaf.factor for leaf in leaves]
    return [
        finding(
            ("uphill", "update_along_gradient"),
            f"the optimiser climbs: {uphill_text(leaves)}",
            "largest multiple of its gradient that a leaf moves by",
            exact(max(factors))._replace(low=min(factors)),
            source="a small step lowers the loss only along negative multiples of the gradient",
            remedy=("negate_updates", NEGATE),
            cost=f"up to {4 * MOST_CALLS} updates on copies of the state",
        )
    ]
