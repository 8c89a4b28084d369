"""The thresholds of measurements on optimisers and of trial runs: what each governs, and its source."""

# Optimisers measured on a copy of their state.

# Size of the probing gradients.  Its square, 1e-22, is far below ν and ε² of adaptive methods, so the
# preconditioner stays as it is, and is still a normal number in float32 (from 1.2e-38 on).  Linearity at this
# size is checked.
# Source: range of float32; tests/test_stability.py holds the measured limits against closed forms.
PROBE_SIZE = 1e-11
# Two measured steps agree when they differ by this share.
# Source: rounding of float32 over RESPONSE_STEPS steps, below 1e-5, with a reserve of 100.
RESPONSE_TOLERANCE = 1e-3
# Steps of the impulse response that are measured: one more than determine h₀, h₁ and ρ, twice.
# Source: counting of unknowns.
RESPONSE_STEPS = 6
# A gradient this much smaller than usual is tried at the parameters themselves; it adds SMALL_GRADIENT² to
# the second moment.
# Source: its square is below RESPONSE_TOLERANCE.
SMALL_GRADIENT = 1e-4
# The step at the parameters may differ by this share from the linear response; where it differs by more, it
# depends on the size of the parameters or of the gradient, and at the present gradient it is clipped.
# Source: chosen above RESPONSE_TOLERANCE; a trust ratio or active clipping changes steps by far more.
NONLINEAR = 0.02
# Gradients that an optimiser may gather for one step.
# Source: chosen; not measured.
MAX_ACCUMULATION = 1024
# The decay of a second moment may differ by this share between variables.
# Source: rounding of a quotient in float32, 1e-7, with a reserve of 1,000.
UNEVEN_DECAY = 1e-4
# Second moments below this are not compared: after one decay they may be subnormal in float32.
# Source: smallest normal float32, 1.2e-38, with a reserve.
SMALLEST_MOMENT = 1e-30
# Second moments are multiplied by this to see with which power of theirs the step shrinks.
# Source: far above ε² ÷ ν, far below the largest float32.
MOMENT_FACTOR = 1e12
# The step is taken as proportional to ν⁻¹ (Adamax) where it shrinks with a power beyond this, else to ν^-½.
# Source: half way between the two powers.
INVERSE_POWER = 0.75
# Steps ahead at which the learning rate is read.
# Source: chosen; not measured.
LOOKAHEAD = (10, 100, 1000, 10000)

# Calls within which an optimiser that accumulates gradients must move.
# Source: chosen; not measured.
MOST_CALLS = 32
# A leaf climbs where its step along its gradient is beyond this many rounding units of all its steps.
# Source: an update rounds a few times; where momentum is far larger than the gradient that is all there is.
CLIMB_ROUNDINGS = 64.0

# Stability.

# Within this band around 1, sharpness ÷ limit counts as being at the edge of stability.
# Source: `make bench-stability`: where training settles at its limit the mean was within the band for
# gradient descent, heavy ball, Nesterov and Adam; single measurements of Adam reach 0.88.
EDGE = 0.05

# Proposed rates.

# A proposed setting keeps the present sharpness at this share of its stability limit.
# Source: sharpness grows while training goes well (Cohen et al. 2021, arXiv:2103.00065, section 3.1).
SHARPNESS_RESERVE = 0.5
# Rates are predicted down to this share of the rate with that reserve, and up to this multiple of the present
# rate where no curvature sets a limit; each is twice the next.
# Source: chosen; not measured.
LOWEST_RATE, HIGHEST_RATE = 2.0**-8, 2.0**10
# Momenta of heavy ball that are predicted.
# Source: memories 1/(1 − β) of 1, 2, 5, …, 100 steps; longer ones cannot act within TRIAL_STEPS.
MOMENTA = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
# Products of the run from the gradient.
# Source: chosen; not measured.
GRADIENT_PRODUCTS = 24
# A setting is better where it ends lower by this share of what the loss has changed.
# Source: heavy ball on a quadratic of condition number 1,000 gains about that over a good rate in 40 steps.
BETTER_BY = 0.01
# This multiple of the present rate is tried where nothing was better: with noise, or with curvature that the
# point does not show, shorter steps may be.
# Source: chosen; not measured.
SHORTER = 0.25

# Trial runs.

# Steps of a trial.
# Source: enough for a rate that is sixteen times too small to show; chosen on synthetic failures.
TRIAL_STEPS = 40
# Steps of Adam that show what training could still gain, by any means.
# Source: chosen on synthetic failures.
ADAM_STEPS = 200
# Rates of Adam, of which the better one counts.
# Source: the usual one (Kingma and Ba 2015, arXiv:1412.6980) and ten times that.
ADAM_RATES = (1e-3, 1e-2)
# Size of a perturbation ÷ root mean square of the leaf, or of a re-initialised one where that is larger.
# Source: at a critical point the loss changes by about its square, 1e-4, of what such weights change it by.
PERTURBATION = 0.01
# A leaf whose mean lies in GAIN_MEAN and beyond this many of its standard deviations is a gain, as of layer
# normalisation, and re-initialised as ones.
# Source: gains begin as ones (Ba et al. 2016, arXiv:1607.06450), and weights spread around zero; how far a
# gain may have moved from one is chosen.
GAIN_MEAN, GAIN_DEVIATIONS = (0.5, 2.0), 3.0
