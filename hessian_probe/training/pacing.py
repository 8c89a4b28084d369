"""When to look again: numbers that the monitor and the optax transformation share."""

from __future__ import annotations

from typing import Any

# A look that found nothing is followed by a pause of so many windows, and every further one multiplies the
# pause: by 2, and by 4 at a minimum, where there is nothing to wait for.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# The share of gradients that looks may cost is kept from this many steps on: a few early looks are free, or
# one in vain would blind a hook for the whole of a short run. What was wasted is forgiven at an escape.
HORIZON = 10_000
# A product is about this many gradients (benchmarks/speed.py: 1.2 stored, 1.7 recomputed; up to 2 on the
# small networks of benchmarks/escape.py), a loss at most this many (0.2 to 0.4 there).
PRODUCT_COST = 1.7
EVALUATION_COST = 0.5
# The loss has left its plateau, and pauses start anew, when it is lower by this many times the larger of
# its noise and its fall over the window at the last look.
LEFT = 10.0
# Whatever the plateau test says, which needs a window and a half, a look is taken when so many values have
# been seen since the start or the latest escape, and at every doubling; those of THOROUGH with products.
FIRST_LOOK = 8
THOROUGH = (16, 64)
# Before the plateau test has spoken, training is taken to bring so many times what it shows: on a slope with
# a small rate negative curvature brought 4.6 times a window's fall, on plateaus it brings 20 times and more.
EARLY = 4.0


def worth(num_hvps: Any, num_gradients: Any, num_evaluations: Any) -> Any:
    """Gradients that products, gradients and evaluations are worth."""
    return PRODUCT_COST * num_hvps + num_gradients + EVALUATION_COST * num_evaluations


def scheduled(count: Any, every: int) -> Any:
    """Whether a look is due that 8, 16, 32 … values since the latest escape ask for.

    Args:
        count: values seen, a multiple of `every`.
        every: values between judgements.

    Returns:
        Whether a power of two, at least FIRST_LOOK, lies among the latest `every` values.
    """
    before = count - every
    return (count >= FIRST_LOOK) & ((count ^ before) > before)


def thorough(count: Any, every: int) -> Any:
    """Whether that look should spend products too."""
    before = count - every
    return ((before < THOROUGH[0]) & (count >= THOROUGH[0])) | (
        (before < THOROUGH[1]) & (count >= THOROUGH[1])
    )


def affordable(now: Any, wasted: Any, price: Any, max_share: float) -> Any:
    """Whether looks that found nothing stay within their share, should this one find nothing too."""
    return wasted + price <= max_share * (now + HORIZON)


def earliest(now: Any, pause: Any, wasted: Any, price: Any, max_share: float, maximum: Any) -> Any:
    """Step of the next look after one in vain.

    Args:
        now: present step.
        pause: steps to wait at least.
        wasted: gradients' worth of all looks so far that found nothing.
        price: of the next one.
        max_share: share of the run's gradients that looks may cost.
        maximum: `max` or `jax.numpy.maximum`.

    Returns:
        The step at which the pause is over and the next look is within its share.
    """
    return maximum(now + pause, (wasted + price) / max_share - HORIZON)
