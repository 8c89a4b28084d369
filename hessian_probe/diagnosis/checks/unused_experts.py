"""Are there parts of the model that nothing is sent to?"""

from __future__ import annotations

from hessian_probe.diagnosis.confidence import Found, confidence
from hessian_probe.diagnosis.experiments import IDLE, Experiments
from hessian_probe.diagnosis.result import Finding

SPREAD = 0.1


def check(case: Experiments) -> Found:
    """Count blocks of arrays (experts, heads) that get no gradient from any sample."""
    if case.blocks_without_gradient is None:
        return []
    name, idle, total = case.blocks_without_gradient
    share = idle / total
    return [
        Finding(
            cause="dead_units",
            claim=f"{idle} of the {total} blocks of {name} along its first axis get no gradient from any "
            "sample: nothing is sent to them, or nothing listens",
            quantity="share of blocks without gradient",
            number=share,
            low=max(share - 2 * SPREAD, 0.0),
            high=min(share + 2 * SPREAD, 1.0),
            threshold=IDLE,
            source="half of an array, as for units of a layer",
            confidence=confidence(share - IDLE, SPREAD),
            experiment="start again with a router near zero, and a loss that balances what is sent where",
            cost="one gradient",
        )
    ]
