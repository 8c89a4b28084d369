"""Thresholds of the operators: data, self-checks, memory, accuracy of products."""

# Two passes over data saw the same samples if the sums of their entries agree to this relative accuracy.
# Source: derived: a thousand times the rounding error of a float32 sum; augmentation changes far more.
SAME_DATA = 1e-4
# A first pass over data that goes on after this many batches is said to be without end.
# Source: chosen; a product with as many takes minutes at least.
MOST_BATCHES = 100_000
# Seconds of a first pass after which the user is told.
# Source: chosen; one wonders by then.
SLOW_DATA = 10.0

# Relative defects that the self-check of an operator allows: of exact products, and of finite differences.
# Source: chosen, not measured: far above the rounding error unless the Hessian cancels badly, and far below
# the defect of a loss that is random, which is of order one.
CHECK_TOLERANCE = 1e-2
# Source: as above; central differences of gradients are accurate to about eps^(2/3).
CHECK_TOLERANCE_DIFFERENCES = 5e-2

# Share of the free memory that stored linearisations, a Krylov basis or a dense matrix may take.
# Source: chosen, not measured.
MEMORY_SHARE = 0.25
# Float64 matrices of size n by n that exist at once while all eigenvectors are computed.
# Source: counted: the Hessian, LAPACK's copy, two in syevd's workspace (1 + 6n + 2n² numbers), eigenvectors.
EIGH_MATRICES = 5
# Rows of the identity that one compiled program multiplies when a dense matrix is formed; bounds memory only.
# Source: chosen, not measured.
DENSE_BLOCK = 64
# Steps along a line for which a compiled program has room; more of them need one of their own.
# Source: chosen; `classify` takes 8 to 16 at a time, and room costs nothing.
STEPS_AT_ONCE = 32

# Relative error of a product by central differences, in units of eps^(2/3).
# Source: derived for steps of eps^(1/3) (see `Objective`), with a margin for the third derivative.
DIFFERENCE_ERROR = 10.0
# Spacing of numbers near 1 in a matrix product of single precision that may be reduced, by backend.
# Source: TensorFloat-32 keeps 10 bits of mantissa (NVIDIA A100 Tensor Core GPU Architecture, 2020).  XLA's
# CPU products keep single precision: DEFAULT, "bfloat16" and HIGHEST agree to the last bit.
REDUCED_EPS = {"cpu": 0.0, "gpu": 2.0**-10, "cuda": 2.0**-10, "rocm": 2.0**-10}
# The same on any other backend.
# Source: bfloat16 keeps 7 bits, the default on TPUs (JAX's documentation of `jax.lax.Precision`).
REDUCED_EPS_ELSEWHERE = 2.0**-7

# Directions of a null space depend on the others if their singular value is below this share of the largest.
# Source: derived: eight roundings of float32, in which directions may be given.
INDEPENDENT = 1e-6
