"""Does every block of an array (an expert, a head) get a gradient?"""

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
            reason="blocks_without_gradient",
            claim=f"{idle} of the {total} blocks of {name} along its first axis get no gradient from any "
            "sample: no sample is routed to them, or no layer uses their output",
            quantity="share of blocks without gradient",
            number=share,
            low=max(share - 2 * SPREAD, 0.0),
            high=min(share + 2 * SPREAD, 1.0),
            threshold=IDLE,
            source="half of an array, as for units of a layer",
            confidence=confidence(share - IDLE, SPREAD),
            remedy="reinitialise",
            experiment="train again with the router's weights near zero, and add a loss that balances the "
            "samples over the experts",
            cost="one gradient",
        )
    ]
