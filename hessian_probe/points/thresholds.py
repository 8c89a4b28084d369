"""The thresholds of labels: what each governs, and its source."""

# Budget.

# Products that `classify` allows by default.
# Source: chosen; a certified saddle takes about a dozen.
MAX_HVPS = 400
# Two Lanczos steps, a product's rounding, both extreme eigenvectors again, and two at the critical point.
# Source: counting.
MIN_HVPS = 7
RESERVED_HVPS = 2
# Products for the standard errors of both extreme eigenvalues, and of one at the critical point.
# Source: counting.
SAMPLING_HVPS = 3

# Rounding.

# A zero eigenvalue is computed as up to BAND_ROUNDING·eps·√min(n, 100)·‖H‖, and as up to BAND_NOISE times
# the measured change of a product.
# Source: with these no zero mode of `make truth` (Lennard-Jones, linear networks, degenerate points) gives a
# wrong label in either precision.
BAND_ROUNDING = 8.0
BAND_NOISE = 8.0
# Where the loss computes in less than single precision, rounding is coarse enough to be measured in full,
# and what is not (constants rounded once) is below BAND_REDUCED·eps·‖H‖.
# Source: 180 networks in bfloat16, float16 and TensorFloat-32, λ_min/‖H‖ from −0.5 to 0.2: no wrong label;
# those of 215 variables were decided from 0.02 ‖H‖ (TensorFloat-32) and 0.1 ‖H‖ (bfloat16) on.
BAND_REDUCED = 2.0
# The gradient at the float nearest a critical point is up to ½ eps·‖H‖·‖x‖: this many of them are zero, and
# this many changes of the gradient in a few draws of the rounding.
# Source: standard rounding analysis, with a reserve.
GRADIENT_ROUNDING = 4.0
GRADIENT_NOISE = 4.0
# Roundings of a loss, in eps of its value, that a computed value may be off by.
# Source: chosen; not measured.
VALUE_ROUNDING = 4.0
# A slope changes along one direction by up to this many times what a few draws show.
# Source: chosen as GRADIENT_NOISE.
SLOPE_NOISE = 4.0
# Draws of the rounding.
# Source: the fewest that leave chance below ENTRY_EXCESS⁻²; each costs a gradient.
ROUNDING_DRAWS = 3
# An entry of the gradient above ENTRY_EXCESS times its own change in all draws is a slope; entries below
# ENTRY_FLOOR of what the tolerance allows each are left out.
# Source: by chance the former happens once in ENTRY_EXCESS³ entries.
ENTRY_EXCESS = 1e3
ENTRY_FLOOR = 1e-9
# A decrease of the loss counts beyond this many roundings of the parameters' precision, and of a lower one
# in which the loss computes.
# Source: chosen; not measured.
DECREASE_ROUNDINGS = 16.0
DECREASE_REDUCED = 2.0
# A change of the loss, or of a slope, that is sampled counts beyond this many of its roundings.
# Source: chosen as BAND_NOISE.
SAMPLE_ROUNDINGS = 8.0
# A product that changes by more than this share of ‖H‖ between two evaluations a rounding apart carries no
# label: the loss is random, its data change, or it is not smooth here.
# Source: chosen; not measured.
UNREPEATABLE = 0.05
# Moving the parameters by one rounding changes the gradient by about eps·‖H‖·‖x‖; this many are allowed.
# Source: chosen; not measured.
GRADIENT_JUMP = 1e3

# Extreme eigenpairs.

# Up to DENSE_FIRST variables all of them are multiplied at once; up to DENSE_SIZE the whole spectrum is
# computed where DENSE_AFTER products of Lanczos have not shown a saddle: a minimum is then proved.
# Source: chosen; a saddle takes a dozen products.
DENSE_FIRST = 9
DENSE_AFTER = 20
DENSE_SIZE = 400
# Where the budget covers a product for each variable, the whole spectrum is computed this many products
# before it no longer does.
# Source: counting: a Lanczos step with its check takes at most four.
LAST_CALL = 4
# Where all negative eigenvalues are to be counted the whole spectrum is computed up to this size.
# Source: the matrix is then 128 MiB.
DENSE_COUNT = 4096
# A sign that is settled in fewer products may come from few distinct eigenvalues: up to DENSE_SIZE variables
# the search looks that far for a breakdown, which proves that they repeat.
# Source: chosen; not measured.
BREAKDOWN_AFTER = 5
# An end is resolved where its residual is below this share of its value.
# Source: the error of a Ritz value is at most its residual: signs hold with a reserve of 100.
END_RESIDUAL = 1e-2
# After both ends are resolved the search goes on for half as long again before "no negative eigenvalue" is
# said: an outlier that the start vector barely holds shows late.
# Source: chosen; not measured.
PATIENCE = 1.5

# What the loss shows of the curvature.

# A direction is probed at ±t for t falling by √2, LINE_POINTS of them in one compiled call.
# Source: chosen; t falls by 2^56 in all.
LINE_POINTS = 4
LINE_CALLS = 28
# The curvature holds over t where (slope(t) − slope(−t)) / 2t deviates from λ by at most this share.
# Source: chosen; the difference is symmetric, so that a cubic term, which only tilts, does not count.
SLOPE_SHARE = 0.25
# Rounding of one slope, in eps of the slope along the direction.
# Source: chosen; not measured.
SLOPE_ROUNDINGS = 16.0
# A difference of losses confirms λ where it deviates by at most this share, noise included.
# Source: chosen; a quarter and a half as SLOPE_SHARE.
VALUE_SHARE = 0.5
# The curvature must hold nearer too, at these shares of that distance, as far as rounding lets see.
# Source: a kink shows as one that grows like 1/t.
NEARER = (2.0**-2, 2.0**-6, 2.0**-12, 2.0**-20)
# Share of the reach within which curvature holds only so near that the rest of the reach is searched too.
# Source: chosen; where it holds at a thousandth, the loss changes by a millionth of what it does further out.
NARROW = 2.0**-10
# Groups of leaves with a line each, on which the loss is held against its derivatives.
# Source: chosen; among others a leaf of few variables hides.
CHECK_GROUPS = 8
# Distances along a line, as shares of the parameters' length, on both sides.
# Source: chosen; what a network of digits computes in float32 shows slopes down to the last.
CHECK_DISTANCES = (2.0**-1, 2.0**-4, 2.0**-7, 2.0**-10)
# The loss's change over an interval may lie outside of what its slopes allow by this share of the larger, and
# by this many roundings of the loss; where these exceed the share the interval shows nothing.
# Source: tests/test_derivative_check.py: 60 wrong derivatives and 78 right ones are told apart in float32 and
# float64 with 0.02 and 0.05, 4 and 8.
CHECK_SHARE = 0.05
VISIBLE_ROUNDINGS = 8.0
# Changes this many times what any slope allows, in CHECK_STEPS intervals, are steps.
# Source: chosen; slopes of an oscillation are seldom all small.
CHECK_BLIND = 4.0
CHECK_STEPS = 2
# A change of the loss when the parameters move by one rounding is a jump beyond this many eps of the loss,
# and beyond the root of eps of what the loss changes on the lines.
# Source: chosen; a sum of 1e6 equal terms is off by 1e3 eps at most.
JUMP_ROUNDINGS = 1e3
# Operations that are named, at most.
# Source: chosen; a line of text.
CHECK_NAMED = 3
# Random directions in which a minimum's surroundings are sampled, at ± NEARER shares of the distance.
# Source: chosen; not measured.
SPOT_DIRECTIONS = 4

# The critical point.

# Share of the curvature's change that the loss may change on the path to the critical point, and that the
# quadratic model may change along each eigenvector on its own, where rises and falls cannot cancel.
# Source: digits networks from 12 random starts (tests/test_classify.py): on plateaus at most 0.04 and 0.25;
# on slopes and when leaving a plateau at least 1 for the latter.
LOSS_SHARE = 0.1
MODEL_SHARE = 0.5
# A Newton step that leaves at most this share of the gradient shows a regular critical point.
# Source: towards one where the Hessian vanishes a step leaves ((m − 2)/(m − 1))^(m − 1), at least ¼ for xᵐ,
# as it does where there is none at all (x³/3 + ax); out along exp(−x) it leaves 1/e.
REGULAR_KEPT = 0.15
# For a saddle among many variables this many regular steps in a row are enough (the second shows what the
# first left), or several that leave KEPT_IN_ALL of the gradient.
# Source: chosen; `make truth` and the networks above.
REGULAR_STEPS = 2
KEPT_IN_ALL = 0.02
LOCATE_STEPS = 4
# For a minimum or a maximum, and in up to this number of dimensions, steps go on to POLISHED_IN_ALL.
# Source: a fast fall along some directions can hide a slow one along others.
FEW_VARIABLES = 40
POLISHED_IN_ALL = 1e-6
POLISH_STEPS = 12
POLISH_UNEXPLAINED = 1e-3
# A step that leaves more than this share of the gradient leads nowhere.
# Source: out along the tail of exp(−x) Newton steps leave 1/e of it, along 1/xᵖ more.
PROGRESS = 0.5
# Beyond this share steps may be out along a tail.
# Source: between 1/e of exp(−x) and 0.32 of x⁵.
STEP_TAIL = 0.34
# A remainder below this many gradient tolerances could be rounding: it is not called a slope.
# Source: chosen; not measured.
DOUBTFUL_TOLERANCES = 10.0
# A Newton step, and a gradient in the zero band, of at most this number of roundings are zero.
# Source: chosen; not measured.
STEP_ROUNDINGS = 32.0
# Products allowed for the Newton step, and the share of the gradient that it may leave unexplained.
# Source: chosen; below REGULAR_KEPT.
NEWTON_HVPS = 200
UNEXPLAINED = 0.1

# What is left to gain.

# The reach as a share of the parameters' length, and the resolution as a share of the smallest scale.
# Source: a sketch with dense Hessians on 94 endings of smooth networks: at most 1e-5 of the scale is left to
# gain at 81 of 84 settled ones, at least 1e-3 of it on 9 of 10 slopes.
REACH = 0.3
RESOLUTION = 1e-5
# Parameters shuffled within their leaves, of which the median is a scale.
# Source: the fewest whose median stands two that went wrong.
SHUFFLES = 5
# A label at a resolution is claimed where rounding hides at most the first of these shares of that scale, and
# the noise of the data the second.
# Source: settled endings and slopes lie 1e-5 and 1e-3 of the scale apart; noise is known to a factor of 2.
MOST_ROUNDED = 1e-3
MOST_NOISE = 0.1
# Roundings of the loss below which no change counts.
# Source: chosen as VALUE_ROUNDING.
GAIN_ROUNDINGS = 4.0
# Products for the gradient's Krylov space at one point; points visited, and where matrices are formed.
# Source: chosen; 2 points and 4 give the same labels at four endings of 10,430 variables (L-BFGS at its
# default stop and polished, float32 and float64), since a trial follows.
REGION_HVPS = 40
REGION_POINTS = 2
DENSE_POINTS = 8
# The model is at most this factor short of the loss over the reach.
# Source: the gain holds at 98 % of 150 endings (`make endings`).
SAFETY = 2.0
# A bound below the first share of the resolution, or within the second factor of the model's decrease, is
# sharp enough.
# Source: chosen; SAFETY times SMALL is below 1.
SMALL = 0.25
SHARP = 2.0
# Where the model falls by CLEAR times the resolution the bound may be CLEARLY times that.
# Source: chosen; the label does not depend on it.
CLEAR = 100.0
CLEARLY = 8.0
# Radii of steps, each a quarter of the one before, from the reach down.
# Source: models of bent valleys hold over a shorter distance than the reach.
REGION_RADII = 8
# Shares of the best step at which the loss is looked at; further out too, since models of valleys are short.
# Source: chosen; not measured.
STEP_SHARES = (0.25, 0.5, 1.0, 2.0, 4.0)
# Distances along the lowest eigenvector, each a quarter of the one before, from the reach down.
# Source: chosen; not measured.
EIGENVECTOR_POINTS = 4
# Distances, to beyond the reach, over which a steady fall is looked for, in units of the parameters' length.
# Source: chosen; not measured.
FURTHER = (0.25, 0.5, 0.75, 1.0)
# Two whole Newton steps in a row, of up to TAIL_STEPS, that leave this share of the gradient are a tail,
# where the loss falls by at least AS_MODELLED of what the model predicts.
# Source: a step leaves 1/e along exp(−x), more along 1/xᵖ; towards a degenerate minimum xᵐ less, 0.25 for
# m = 3, 0.36 for m = 24.  What converges is gone after the first steps.
TAIL = 0.36
TAIL_STEPS = 4
AS_MODELLED = 0.5
# A step shorter than this share of a radius ends inside it.
# Source: chosen; a step that ends on its radius meets it to rounding.
INTERIOR = 0.999
# Displacements from which descents are tried, as shares of the reach, and evaluations of each.
# Source: chosen; tests/test_gain.py has falls that are found so.
DISPLACED = (0.1, 1.0)
DISPLACED_EVALUATIONS = 12
# More draws of the last of them where several directions are flat.
# Source: at cusps and crossing orders (tests/test_degenerate.py) a draw finds the fall in 4 to 8 of 10 cases.
DISPLACED_FURTHER = 6
# Shares of the way to a lower loss at which a rise before it is looked for.
# Source: chosen; not measured.
WAY = (0.125, 0.25, 0.5, 0.75)
# Evaluations of the run that replaces a bound; distance from its best point at which it starts again, and
# Adam's step at kinks, as shares of the reach.
# Source: `make endings` at kinks: 95 % of gains hold.
TRIAL_EVALUATIONS = 100
TRIAL_BESIDE = 0.003
# Shares of that run after which it ends where what is left is at most the resolution, or the fall counts.
# Source: chosen; `make truth`.
TRIAL_SHARES = (0.25, 0.5, 1.0)
ADAM_SHARE = 0.01
# A step of a descent is accepted where the loss falls by this share of what the slope says, after at most
# this number of shorter ones; steps that L-BFGS remembers.
# Source: J. Nocedal and S. Wright, Numerical Optimization, 2006, sections 3.1 and 7.2.
ARMIJO = 1e-4
HALVINGS = 10
MEMORY = 10
# What is left is taken as this many times what the second half of such a run gained.
# Source: a loss that falls like 1/t leaves twice that; with a reserve of two.
REST = 4.0
# Curvature below this share of ‖H‖ is flat enough to be displaced along.
# Source: chosen; not measured.
FLAT_SHARE = 1e-3
# Variables up to which families of flat directions are looked for, on the host, and families named.
# Source: chosen; not measured.
FAMILIES_SIZE = 300_000
FAMILIES_NAMED = 4
# Sums that make up the resolution exactly are rounded by up to this share.
# Source: eps of float32 with a reserve.
SUM_ROUNDING = 1e-6

# Symmetries.

# A move multiplies by e^±MOVE to e^±2·MOVE, or adds normal entries of a length MOVE times the parameters'.
# Source: chosen; large enough that what is flat only to second order shows.
MOVE = 0.5
# The loss is unchanged where it differs by at most UNCHANGED_ROUNDINGS times its rounding error at both ends;
# normal entries of the move's length must change it by VISIBLE_MOVE times that, or nothing there is visible.
# Source: GAIN_ROUNDINGS; four times as much, so that chance does not decide.
UNCHANGED_ROUNDINGS = 4.0
VISIBLE_MOVE = 16.0
# No move is tried where ⟨gradient, generator⟩ is more than this times the root of its terms' squares at a
# random point nearby.
# Source: independent terms add up to about 1; constant families to rounding.
SCREEN = 1e-3
# Candidates that are moved at most, and how far apart the leaves of a family are in the layout's order.
# Source: chosen; not measured.
TRIED_MOVES = 64
NEIGHBOURS = 8

# Null space given by the user.

# A generator's flow is followed over this share of the parameters' length by FLOW_STEPS steps of the
# classical Runge-Kutta method.
# Source: for a rotation the end is then off by less than 1e-9 of that length; FLOW_ERROR has a reserve.
FLOW = 0.25
FLOW_STEPS = 8
FLOW_ERROR = 1e-7
# Straight lines are followed over these shares of the parameters' length, in both directions.
# Source: chosen; not measured.
LINE_SHARES = (2.0**-5, 2.0**-4, 2.0**-3, 2.0**-2, 2.0**-1)
# With all other directions relaxed a line is followed in this number of steps.
# Source: chosen, lest another branch is met.
RELAXED = 16
# Vectors may each be flat and their span not (a product of all of them): random combinations are tried.
# Source: chosen; not measured.
COMBINATIONS = 12
# A product with a flat direction is zero to rounding up to this number of zero bands.
# Source: chosen as the sign margin.
FLAT_BANDS = 2.0

# Higher order along flat directions.

# How many times the largest change that a few draws of the rounding make counts; in a null space too.
# Source: chosen as BAND_NOISE.
DRAWN_ROUNDINGS = 8.0
# Spheres, each half as wide as the one before, from the reach down.
# Source: chosen; not measured.
NUM_SPHERES = 16
# Starts on the widest spheres, and spheres on which they are made; the lowest points are followed inwards.
# Source: chosen; `make truth` has monkey saddles and cones.
SPHERE_STARTS = 8
STARTED_SPHERES = 2
LOWEST_KEPT = 3
# Without a slope on this many spheres there is none on smaller ones.
# Source: chosen; not measured.
SILENT_SPHERES = 6
# Evaluations from a start, and on each smaller sphere.
# Source: chosen; not measured.
SPHERE_EVALUATIONS = 30
FOLLOWED_EVALUATIONS = 8
# Steps along the other directions, by their curvature, before a slope is read.
# Source: each leaves the square of what the one before left.
RESTS = 3
# Off the flat space by more than this many radii a point lies on another branch.
# Source: chosen; not measured.
FAR = 4.0
# A valley bends away like the square of the distance, twice as fast as it is away; and twice that.
# Source: geometry, with a reserve of two.
BENT = 4.0
# At rest: what the other directions could still change is at most this share of what the slope makes.
# Source: chosen; far below POWER_TOLERANCE.
REST_SHARE = 1e-2
# Spheres in a row, the smallest visible one first, on which a fall must show as one power, and by how much
# exponents may differ.
# Source: neighbouring whole powers are 1 apart.
POWER_SPHERES = 4
POWER_TOLERANCE = 0.35
# Curvature has a slope of power 1; a fall of higher order at least this.
# Source: a cubic term.
LEAST_POWER = 2.0
# A descent is straight where it leaves the flat space by at most this share of its length.
# Source: chosen; not measured.
STRAIGHT_DESCENT = 1e-3
# Up to this number of variables all are taken as flat where no curvature was found.
# Source: the basis is then 32 MiB.
ALL_FLAT = 2048

# Units.

# Diagonals closer than this leave nothing to be gained.
# Source: chosen; not measured.
SPREAD = 1e2
# The gradient, and what rounding makes of it, may place the critical point this share of the length of the
# parameters (at least 1) away.
# Source: chosen; not measured.
NEAR = 0.1
# What rounding makes of a step, in units of the most that a few draws of it show.
# Source: chosen as GRADIENT_NOISE.
STEP_NOISE = 4.0

# Kinks.

# A saddle's gradient is zero here; gradients at opposite points whose mean is longer than this share of the
# longer one, at two distances, are a slope that the derivative at the point itself does not show.
# Source: half way between a slope (1) and none (0).
HIDDEN_SLOPE = 0.5
# Distances at which that is looked for, as shares of the distance over which the curvature holds.
# Source: chosen; not measured.
CLOSER = (1e-2, 1e-4)
# Up to this dimension samples cover the directions densely enough for an extremum at a kink to be claimed.
# Source: narrow descents among three kinks were missed (tests/test_nonsmooth.py).
FEW_DIRECTIONS = 2
# The loss is sampled on spheres this factor apart; a claim needs the same finding on AGREE in a row.
# Source: chosen; 30³ is far more than what a kink's neighbourhood spans.
APART = 30.0
SPHERES = 4
AGREE = 3
# The parameters' own rounding must be below this share of a sphere's radius.
# Source: chosen; not measured.
ROUNDED_RADIUS = 1e-2
# A peak is lower on both sides: the tilt is at most this share of the bend.
# Source: half way between a slope and a peak.
TILT_SHARE = 0.5
# Gradients that shrink with the sphere by at least this share of the power that a second order term has leave
# no slope and no kink of first order.
# Source: half way between first and second order.
SECOND_ORDER = 0.5
# A change of the loss is at most the longest gradient times the distance, of which samples show a part.
# Source: chosen; not measured.
SAMPLED_PART = 4.0
# A straight slope keeps at least this share of its length over the distances.
# Source: half way between a slope and a bend.
STRAIGHT_SLOPE = 0.5
# A null direction is known only to this many eps; its leakage into the steepest direction changes the loss by
# the square of that angle, which must not be read as an increase.
# Source: chosen as SLOPE_ROUNDINGS.
DIRECTION_ROUNDINGS = 16.0
# Random directions on each sphere; with each its opposite.
# Source: chosen; descents from them find what they miss.
DRAWN_DIRECTIONS = 3
# The bundle grows until its shortest combination is below STATIONARY of the longest gradient, or no gradient
# along minus it is shorter by more than SETTLED, or it holds BUNDLE gradients.
# Source: rounding of inner products in single precision is 7e-4; a kink in k directions needs a few k.
BUNDLE = 128
STATIONARY = 2e-3
SETTLED = 0.05
# A slope changes the loss by at least this share of its length times the distance, in both directions.
# Source: chosen; not measured.
STEEP = 0.25
# Share of a random direction that is mixed into one that was found, to leave kinks it may lie in.
# Source: chosen; not measured.
MIXED_SHARE = 1e-3
# Gradients that differ by more than CURVED times what curvature makes over the sphere, and by more than
# KINK_SHARE of the longest, do so by a kink.
# Source: chosen; the former's error is a factor of 2.
CURVED = 4.0
KINK_SHARE = 1e-3
# Pairs of half-random directions in which a slope must hold too.
# Source: chosen; not measured.
MIXED_PAIRS = 4
# Turns of the search along the sphere, and trial steps of each, a factor 4 apart from the radius down.
# Source: chosen; not measured.
TURNS = 5
TURN_TRIALS = 8
# Where losses are too coarse to show a change, the slope replaces them up to this many times what they show.
# Source: chosen; not measured.
SLOPE_BEYOND = 4.0
# Weight of the condition Σλ = 1 in the least-squares problem.
# Source: its error is about 1/FIRM².
FIRM = 1e4

# Samples.

# Two batches in each half are the fewest that show how much a half scatters.
# Source: counting.
FEWEST_BATCHES = 4
# Products for one draw of the gradient's noise where only the ends of the spectrum are known, and draws; with
# few batches one of them can be short by chance.
# Source: chosen; not measured.
DRAW_HVPS = 12
NOISE_DRAWS = 4
# Products on each half: as many as the search on all data took, within these bounds.
# Source: chosen; not measured.
FEWEST_STEPS, MOST_STEPS = 8, 48
# A gradient too large to be near a critical point is believed where noise makes at most this share of its
# square.
# Source: its length is then known to a fifth or so, while what counts as near on plateaus and far on slopes
# differs by a factor of four in the square (LOSS_SHARE, MODEL_SHARE).
NOISE_SHARE = 0.05
# Stated probability that the number of samples settles it, for a curvature of at least LEAST_ERRORS of its
# present standard errors.
# Source: the statement made.
POWER = 0.9
LEAST_ERRORS = 0.5
# The mean probability over what curvature and scatter may be, given the sample, is asked to be AIM; no more
# samples than make it SURE for the least curvature.
# Source: both lie above POWER since the sample may show more than there is; Gaussian samples in 8, 16 and 64
# batches, 150 draws each, true curvature of 0.5 to 4 errors: settled in 91 % to 99 %.
AIM = 0.93
SURE = 0.98
# A number of samples is estimated from this number of batches on.
# Source: Student's t at 99 %: 32, 4.5, 3.0 for halves of 4, 8, 16 batches.
BATCHES = 16
# More batches than this of the same data hardly settle more.
# Source: the same is 2.45, and 2.33 for halves of infinitely many.
PLENTY = 64
# Probability that the number lies beyond either end of the interval stated.
# Source: the statement made: eight in ten within.
ENDS = 0.1
# Beyond this multiple of the data no number is given.
# Source: chosen; not measured.
MOST_DATA = 1e5
# Points at which the unknown curvature and its scatter are taken.
# Source: chosen; not measured.
GRID_POINTS = 60
# Draws of gradients, for the place of the critical point.
# Source: 1 % of error in a probability of 0.93.
GRADIENT_DRAWS = 600
# Parts in which the gradient outside both extreme eigenvectors is drawn.
# Source: chosen; not measured.
REST_PARTS = 8

# Search on spheres at the scale of an initialiser.

# Radii, in units of an initialiser's draw, in the order in which they are tried.
# Source: `make bench-stuck`: most trainings are left after 28 gradients of the search, at 1; 0.1 leaves
# octopuses with Adam (`make bench-escape`).
SPHERE_RADII = (1.0, 0.3, 0.1)
# Gradient steps on a sphere, and fresh batches that must agree.
# Source: the sketch behind the same benchmark; 4 agree by chance once in 16 at each radius.
SPHERE_STEPS = 20
SPHERE_CHECKS = 4
# The first step as a share of the radius; the others shrink, the last one to LAST_STEP of it.
# Source: the same trainings: 23 of 23 reach 85 % of what a well-started run gains, 18 with equal steps.
FIRST_STEP = 0.3
LAST_STEP = 0.1
# A leaf that is no matrix moves by up to this many radii, from where it is.
# Source: chosen: the length of a unit's readout as initialisers draw it.
VECTOR_RADIUS = 1.0
# Batches from which on some of them are kept to check what others found.
# Source: two in each half.
FEWEST_HELD_OUT = 4
