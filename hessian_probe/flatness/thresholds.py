"""The thresholds of sharpness measures: what each governs, and where its value comes from."""

# Up to this many variables the whole Hessian is computed.
# Source: it costs one product for each variable; the estimates cost about as many (three traces of 30
# products, two largest eigenvalues of 10 to 50).
EXACT_SIZE = 128
# Random starts of each ascent, beside the gradient and both signs of the top eigenvector.
# Source: chosen; not measured.
RANDOM_STARTS = 2
# Steps of one ascent.
# Source: Keskar et al. 2017, arXiv:1609.04836, section 2.2.2, gave as many to theirs.
ASCENT_STEPS = 10
# An ascent ends when a step raises the rise by less than this share.
# Source: the accuracy (`rtol`) of the eigenvalues that stand beside it.
ASCENT_TOLERANCE = 1e-3
