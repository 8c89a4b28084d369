"""Do updates descend in every leaf of the parameters?"""

from __future__ import annotations

from hessian_probe.diagnosis.confidence import MOST, Found
from hessian_probe.diagnosis.experiments import Experiments
from hessian_probe.diagnosis.result import Finding, NotChecked
from hessian_probe.optimizers.thresholds import MOST_CALLS
from hessian_probe.optimizers.uphill import uphill_text


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
        Finding(
            cause="uphill",
            reason="update_along_gradient",
            claim=f"the optimiser climbs: {uphill_text(leaves)}",
            quantity="largest multiple of its gradient that a leaf moves by",
            number=max(factors),
            low=min(factors),
            high=max(factors),
            threshold=0.0,
            source="a small step lowers the loss only along negative multiples of the gradient",
            confidence=MOST,
            remedy="negate_updates",
            experiment="end the transformation of these leaves in a negative rate (optax.scale(-rate)), or "
            "hold them fixed by optax.set_to_zero() in optax.partition; optax.masked hands on the raw "
            "gradient of what it leaves out, and another rate does not help",
            cost=f"up to {4 * MOST_CALLS} updates on copies of the state",
        )
    ]
