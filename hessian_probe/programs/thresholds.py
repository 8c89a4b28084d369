"""Thresholds of the reading of traced programs."""

# Operands of a kink tie if they differ by at most this many rounding errors of the largest entry beside them.
# Source: a sum of a few thousand products leaves a rounding error of about that size at a kink.
TIE_ROUNDINGS = 1e3
# A scan of at most this many turns is unrolled, so that the layers within it are seen.
# Source: chosen, not measured: the number of layers of a deep network.
MAX_TURNS = 64
# A scan of at most this many turns is gone back through, to name the operation within that is not finite.
# Source: measured: a hundred turns of a few operations take two seconds.
MOST_TURNS = 512
