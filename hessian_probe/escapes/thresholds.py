"""The thresholds of escapes: what each governs, and its source."""

# What is worth a step.

# An escape gains at least this many times what the slope gained before it, and what training gains in a
# window.
# Source: the definition of an escape: not what the gradient gives anyway.
WORTH = 2.0
# In training it gains at least this share of what the run has gained so far.
# Source: chosen; not measured.
LEAST_SHARE = 1e-2

# Along a direction.

# Every compiled call evaluates this many steps.
# Source: chosen; not measured.
LINE_STEPS = 8
# The first scale shrinks 16-fold with every call, so at most to 2⁻³⁶ of it.
# Source: rounding of float32 with a reserve.
MAX_CALLS = 10
# No step is longer than this many first scales (the length of the parameters, at least 1).
# Source: chosen; a loss without a lower bound would carry it to infinity.
LONGEST = 8.0
# Calls that refine the bracket around the best step.
# Source: chosen; each divides it by nine.
REFINEMENTS = 2
# Line searches along the gradient that show what the slope gains, and how many times what the slope explains
# the loss may fall.
# Source: chosen; the plateaus of `make bench-escape` bend by 2.4 to 8,000 at their start, 0.2 to 1.1 behind.
SETTLING = 3
BENT = 2.0

# Profiles.

# A profile reaches this much further than the escape's step, so that the rise beyond it shows; without a step
# DEFAULT_REACH, in params.
# Source: chosen, for the eye.
BEYOND = 1.5
DEFAULT_REACH = 1.0
