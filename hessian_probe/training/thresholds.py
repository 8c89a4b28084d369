"""The thresholds of training hooks: what each governs, and its source."""

# When to search.

# A search that finds nothing is followed by a pause of PAUSE windows.  Every further one multiplies the pause
# by BACKOFF; at a minimum, where there is nothing to wait for, by BACKOFF_AT_MINIMUM.
# Source: chosen; a window is what the plateau test needs to see a change.
PAUSE = 2.0
BACKOFF = 2.0
BACKOFF_AT_MINIMUM = 4.0
# A product and a loss in gradients.
# Source: benchmarks/speed.py: a product is 1.2 stored and 1.7 recomputed, a loss 0.2 to 0.4.
PRODUCT_COST = 1.7
EVALUATION_COST = 0.5
# Windows after which an escape stands.
# Source: deep linear networks of six layers with momentum: where a step was too long, the loss rose above the
# saddle's sooner than that.
GUARD = 4
# Where the loss is too noisy for a verdict, a search is made this many values after the start or the latest
# escape, and at every doubling.
# Source: two windows.
FIRST_SEARCH = 128
# A decrease must exceed this many rounding errors of the loss.
# Source: DECREASE_ROUNDINGS of labels.
GAIN_ROUNDINGS = 16.0
# Batches that a probe of the monitor takes; as many others confirm at least CONFIRMED of a gain.
# Source: chosen; not measured.
BATCHES = 4
CONFIRMED = 0.5

# The plateau test.

# Values are added by medians, this many to a window.
# Source: chosen; of 64 values each median has 8, which hold three spikes in a row.
CHUNKS = 8
# Blocks that hold the whole run; between half of them and all are in use.
# Source: chosen; 64 points are enough for a line with correlated noise.
BLOCKS = 128
# Progress is shown where it is this many standard errors from zero, and excluded where it is as many from
# what would count.
# Source: tests/test_training_plateau.py on streams with known trends.
SIGNIFICANT = 3.5
# Present speed over the run's own: below FLAT_SPEED nothing happens, below SLOW_SPEED it is slow.
# Source: a loss that falls like t^-p has a speed of 0.54 for p = 1 and 0.36 for p = 2 at any time; one
# that falls like exp(−t/T) is at 0.1 after 9 T and at 0.02 after 14 T, when 8e-7 of its decrease is left.
FLAT_SPEED = 0.02
SLOW_SPEED = 0.1
# A second half of the run that contributed less than this share of the whole decrease is slow, even if it
# slows down like a power of time, as on the approach to a saddle along flat directions.
# Source: a loss that falls like 1/(t + t₀) is slow from 1,000·t₀ on.
NEGLIGIBLE = 1e-3
# Without progress to compare with, a fall below this share of the noise over half the run is flat.
# Source: chosen; tests/test_training_plateau.py.
NOISE_SHARE = 0.4
# A rise must be this many standard errors from zero.
# Source: correlated noise drifts up and down; tests/test_training_plateau.py.
RISING = 5.0
# A run of which the last quarter gained more than this share of all progress began on a plateau.
# Source: a loss that falls at a constant rate gains 0.27 there, one that falls faster and faster like
# exp(t/T) a half from 2.8 T on.
ACCELERATION = 0.5
# A gradient has not gone where its norm is above this share of the highest mean in the run.
# Source: an optimum is approached by orders of magnitude, a bounce between walls by less than one.
LASTS = 0.1

# Standard deviation of a Gaussian over its median absolute deviation.
# Source: 1/Φ⁻¹(¾).
GAUSSIAN = 1.4826
# Values that are asked whether they oscillate, at least.
# Source: the next two.
SWINGS = 64
# A correlation of neighbouring steps below this alternates; an AR(2) fit with a second coefficient below
# RINGING is an undamped oscillation.
# Source: four standard errors from zero over 64 steps; chosen.
ALTERNATING = -0.5
RINGING = -0.8
