"""The thresholds of escapes: what each governs, and its source."""

# An escape gains at least this many times what the slope gained before it, and what training gains in a
# window.
# Source: the definition of an escape: not what the gradient gives anyway.
WORTH = 2.0
# In training it gains at least this share of what the run has gained so far.
# Source: chosen; not measured.
LEAST_SHARE = 1e-2
