"""The thresholds of the spectrum: what each governs, and where its value comes from."""

# The Lanczos step ----------------------------------------------------------------------------

# A remainder up to BREAKDOWN · eps · ‖H‖ is rounding: the Krylov space is invariant.  A remainder above it
# does no harm even where it is rounding, since it is orthogonalised twice before it is used.
# Source: measured on dense matrices of rank 1 … 25, n = 50 … 3000, float32 and float64: the remainder after
# `rank` steps is 1 to 30 eps · ‖H‖ where the spectrum is not graded.
BREAKDOWN = 10.0
# A pass of orthogonalisation that leaves less than this share of a vector is repeated ("twice is enough").
# Source: J. W. Daniel, W. B. Gragg, L. Kaufman and G. W. Stewart, Math. Comp. 30, 1976, who give 1/√2.
SHRINKAGE = 0.7
# A random vector is taken as a fresh start where orthogonalisation leaves more of its unit length than this
# times eps · √n; else another is drawn, FRESH_DRAWS in all, and then the basis spans the space.
# Source: derived: rounding leaves about eps · √n, a per cent of that length.  One draw falls below it with
# probability 100 · eps · n at most where one dimension is left (see `certificate.log_inverse_weight`): 12 %
# for n = 10,000 in float32, and three draws in a row with 0.2 %.
FRESH_LENGTH = 100.0
FRESH_DRAWS = 3
# Rows of the storage of a growing basis: a step touches the filled segment only, for one compilation each.
# Source: chosen; not measured.
SEGMENTS = (16, 32, 64, 96, 128, 192, 256, 384, 512)

# The search for both ends --------------------------------------------------------------------

# Up to LAPACK_SIZE variables n products and LAPACK are cheaper than compiling and running Lanczos; up to
# DENSE_MANY where a quarter of all pairs is wanted (the float64 matrix then has 32 MiB).
# Source: chosen; not measured.
LAPACK_SIZE = 32
DENSE_MANY = 2048
# Products of a search at most, where the caller does not say: BUDGET, and BUDGET_PER_PAIR more for each pair.
# Source: `make bench`: ten times what the network of 85,002 parameters takes at rtol 1e-5 (90), and four
# times what a further pair takes on networks for digits (3 to 7, see `planning`).
BUDGET = 1000
BUDGET_PER_PAIR = 20
# Basis vectors kept at most.
# Source: `make bench`: the network of 85,002 parameters reaches rtol 1e-5 without a restart.
MAX_BASIS = 128
# For many pairs the basis has BASIS_SPARE vectors more than twice their number.
# Source: chosen; not measured.
BASIS_SPARE = 32
# The Ritz values are computed after every product up to LOOKED_AT_EACH basis vectors, then after every third.
# Source: chosen; not measured.
LOOKED_AT_EACH = 24
LOOKED_AT_EVERY = 3
# Where a small loss makes that dearer than a product, after every growth by one in this number.
# Source: chosen; at most an eighth of the products is not needed.
LOOKED_AT_GROWTH = 8
# A restart keeps, beside the wanted pairs, one in this number of basis vectors as their neighbours.
# Source: chosen; not measured.
KEPT_ONE_IN = 3
# Residuals below RESIDUAL_ROUNDINGS · eps · ‖H‖ are not asked for: they cannot be told from rounding.
# Source: chosen; not measured.
RESIDUAL_ROUNDINGS = 8.0
# Residual estimates aim at this share of the tolerance, since they are exact up to rounding; the share is
# halved down to LOWEST_AIM where a true residual exceeds the tolerance.
# Source: chosen; not measured.
AIM = 0.95
LOWEST_AIM = 0.2
# A given start vector gets a random part of this share of its length.
# Source: chosen; not measured.
RANDOM_SHARE = 0.1
# A run from a fresh vector is long enough after this number of products, even where restarts keep its
# certificate from growing.
# Source: twice what an unrestarted run on 10,000 variables takes for the next two thresholds.
FRESH_STEPS = 100
# Before the search ends, such a run must have shown a further copy of a wanted eigenvalue with this
# probability, unless the copy lies nearer to the innermost wanted eigenvalue than COPY_STEP of the
# spectrum's width.
# Source: chosen; not measured.
COPY_CONFIDENCE = 0.999
COPY_STEP = 1e-2

# Signs ---------------------------------------------------------------------------------------

# A Ritz value shows the sign of an eigenvalue where it lies SIGN_MARGIN zero bands away from zero and its
# residual is at most SIGN_RESIDUAL of it.
# Source: a residual r proves an eigenvalue within r of the Ritz value; the margin is chosen.
SIGN_MARGIN = 2.0
SIGN_RESIDUAL = 0.5

# Counting negative eigenvalues ---------------------------------------------------------------

# Basis vectors held at most while counting.
# Source: chosen; not measured.
COUNT_BASIS = 512
# Its Ritz values are computed each time that it has grown by one in this number of its vectors.
# Source: chosen; not measured.
LOOKED_AT_ONE_IN = 16
# A Ritz pair is locked for deflation once its residual is below this share of the curvature sought.
# Source: chosen; not measured.
LOCK = 1e-2
# Share of the budget for deflation, before quadrature gets the rest.
# Source: chosen; not measured.
DEFLATION_SHARE = 0.5
# Products of one quadrature probe, and number of probes: at least, and at most; PRODUCTS_PER_PROBE of the
# budget are allowed for each probe.
# Source: chosen; not measured.
PROBE_STEPS = (24, 96)
PROBES = (3, 16)
PRODUCTS_PER_PROBE = 64
# Where the quadrature counts, as shares of the lowest Ritz value; the nearest to zero first.
# Source: chosen; not measured.
LEVELS = (1e-3, 1e-2, 0.1, 0.5)
# A share of a probe's weight below this is the rounding of a sum in float64.
# Source: 45 units of float64 rounding, for sums of up to 96 shares.
WEIGHT_ROUNDING = 1e-14

# Sums of the spectrum --------------------------------------------------------------------------

# Random vectors whose products choose the estimator, two products each.
# Source: chosen: their standard deviations are known to a quarter (1/√18).
PILOT = 10
# Standard errors are looked at each time that the vectors are this many times as many.
# Source: chosen: the last look comes at most a quarter too late, and few looks hardly bias where it stops.
CHECKED_EVERY = 1.25
# Standard error of XTrace in units of what it would be were its samples independent.
# Source: derived in `sums`: √2 where pairs of vectors make the error; measured on four spectra (n = 400, 600
# runs each, traces and norms): 1.15 to 1.4 with 10 vectors, 1.0 to 1.4 with 16, 1.05 to 1.45 with 40.
SHARED_ERROR = 2**0.5
# The diagonal's errors are looked at after each of this number of products.
# Source: chosen; not measured.
DIAGONAL_BATCH = 10
# An image spans no new direction where orthogonalisation leaves at most DEPENDENT · eps of it.
# Source: derived: as for FRESH_LENGTH, a hundred roundings.
DEPENDENT = 100.0

# Density of the spectrum ------------------------------------------------------------------------

# Products of each probe, and probes before the error is looked at.
# Source: chosen: a resolution of 2 % of the bulk's width.
DENSITY_STEPS = 64
DENSITY_PROBES = 3
# Width of the smoothing, in units of the bulk's width over the steps of a probe.
# Source: derived: k steps integrate polynomials of degree 2k − 1 exactly; a Gaussian of width s in units of
# half the interval has Chebyshev coefficients of about exp(−s²j²/2), at s = 2.5/k and j = 2k below 4e-6.
RESOLUTION = 1.25
# What the quadrature adds to the error of a smoothed density, in units of one over the width.
# Source: derived: twice the coefficient above.
QUADRATURE_ERROR = 1e-5
# Eigenvalues beyond a gap of this number of resolutions are outliers, if their residuals are at most
# OUTLIER_RESIDUAL of it; at most one in OUTLIERS_ONE_IN eigenvalues.
# Source: chosen: an error of 1 % of the gap leaves a share of 1e-4 of an outlier in the bulk.
OUTLIER_GAP = 3.0
OUTLIER_RESIDUAL = 1e-2
OUTLIERS_ONE_IN = 10
# A Ritz value whose weight stands for more eigenvalues than this is a spike of the bulk (a null space).
# Source: derived: the weight of c copies is χ² with c degrees of freedom; 8 copies exceed 32 with 1e-4.
COPIES = 32

# What is printed ------------------------------------------------------------------------------

# Groups of eigenvalues that are printed at most; one row counts the others.
# Source: chosen; a screen.
ROWS = 8
# Eigenvalues that differ by more than this share of their residual are not said to be copies of one.
# Source: derived: copies in one Krylov space differ by the square of the residual over a gap.
COPIES_APART = 0.1
