"""The numbers that a plan assumes: what each stands for, and where its value comes from."""

# Time of a search outside its products, as a share of theirs.
# Source: `make bench`, which allows this share.
BESIDE = 0.25
# Products for a certified saddle.
# Source: `make truth`: the median over its points.
SADDLE = 12
# Products of a search for both ends: with one pair each at rtol 1e-3, for every further power of ten, and for
# every further pair.
# Source: measured on networks for digits of 3,050 to 85,002 parameters: 26 to 40, 6 to 28, and 3 to 7.
PAIR_AT_MILLI = 35
PAIR_PER_DECADE = 20
FURTHER_PAIR = 5
# Losses and slopes that a classification evaluates.
# Source: measured on the same networks: 84 to 100.
EVALUATIONS = 100
# Losses and slopes that an escape evaluates after its classification.
# Source: the docstring of `hp.escape`.
LINE_SEARCH = 40
# A timed call of more than this number of seconds is not repeated.
# Source: chosen; not measured.
LONG_CALL = 1.0
