"""When to look again: numbers that the monitor and the optax transformation share."""

# A look that found nothing is followed by a pause of so many windows, and every further one multiplies the
# pause: by 2, and by 4 at a minimum, where there is nothing to wait for.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# A product is at most this many gradients (facts measured by benchmarks/speed.py: 1.2 stored, 1.7
# recomputed), an evaluation at most one.
PRODUCT_COST = 1.7
# The loss has left its plateau, and pauses start anew, when it is lower by this many times the larger of
# its noise and its fall over the window at the last look.
LEFT = 10.0
