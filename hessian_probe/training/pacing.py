"""When to look again: numbers that the monitor and the optax transformation share."""

from __future__ import annotations

from typing import Any

# A look that found nothing is followed by a pause of so many windows, and every further one multiplies the
# pause: by 2, and by 4 at a minimum, where there is nothing to wait for.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# The share of gradients that looks may cost is kept from this many steps on: a few early looks are free, or
# one in vain would blind a hook for the whole of a short run.
HORIZON = 10_000
# A product is at most this many gradients (facts measured by benchmarks/speed.py: 1.2 stored, 1.7
# recomputed), an evaluation at most one.
PRODUCT_COST = 1.7
# The loss has left its plateau, and pauses start anew, when it is lower by this many times the larger of
# its noise and its fall over the window at the last look.
LEFT = 10.0


def earliest(now: Any, pause: Any, spent: Any, price: Any, max_share: float, maximum: Any) -> Any:
    """Step of the next look after one in vain.

    Args:
        now: present step.
        pause: steps to wait at least.
        spent: gradients' worth of all looks so far.
        price: of the next one.
        max_share: share of the run's gradients that looks may cost.
        maximum: `max` or `jax.numpy.maximum`.

    Returns:
        The step at which the pause is over and the next look is within its share.
    """
    return maximum(now + pause, (spent + price) / max_share - HORIZON)
