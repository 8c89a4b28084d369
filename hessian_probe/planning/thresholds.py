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
# Products for the noise of data in batches.
# Source: measured on quadratics of 8 to 1,000 variables with scattered batches: 2 to 18.
SAMPLE = 12
# Losses and gradients that a classification evaluates.
# Source: measured on quadratics and small networks: 45 at saddles, 70 to 100 at minima, 50 to 180 on slopes,
# 250 to 330 where the training of a network ends and no bound on what is left to gain is sharp.
EVALUATIONS = 100
# Losses and slopes that an escape evaluates after its classification.
# Source: the docstring of `hp.escape`.
LINE_SEARCH = 40
# A timed call of more than this number of seconds is not repeated.
# Source: chosen; not measured.
LONG_CALL = 1.0
