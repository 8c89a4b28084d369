"""The thresholds of escapes: what each governs, and its source."""

# Search on spheres.

# Radii, in units of an initialiser's draw, in the order in which they are tried.
# Source: 23 stuck trainings, three seeds (`make bench-stuck`): 1 leaves 64 of 69, 0.3 the others; smaller ones
# are for networks of which a part has learnt, and for saddles of second order beside them.
RADII = (1.0, 0.3, 0.1, 0.03)
# Gradient steps on a sphere, and fresh batches that must agree.
# Source: the sketch behind the same benchmark; 4 agree by chance once in 16 at each radius.
SPHERE_STEPS = 20
CHECKS = 4
# The first step as a share of the radius; the others shrink, the last one to STEP_END of it.
# Source: the same benchmark: 23 of 23 go on to 85 % of the well-started run, 18 with steps that do not shrink.
STEP = 0.3
STEP_END = 0.1
# A leaf that is no matrix moves by up to this many radii, from where it is.
# Source: chosen: the length of a unit's readout as initialisers draw it.
VECTOR_RADIUS = 1.0
# An escape gains at least this many times what the slope gained before it, and what training gains in a
# window.
# Source: the definition of an escape: not what the gradient gives anyway.
WORTH = 2.0
# In training it gains at least this share of what the run has gained so far.
# Source: chosen; not measured.
LEAST_SHARE = 1e-2
