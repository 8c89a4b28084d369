"""What is remembered of a stream of losses, and how it is judged; for NumPy and JAX alike.

* The last `window` values show the present trend; means over ever longer, equal blocks show the whole
  run in bounded memory.
* A trend is a least-squares slope of values freed of spikes; its standard error allows for noise that
  is correlated from step to step.
* What counts as progress is measured by the run itself: the fall over the second half of the run so
  far. A loss that falls like a power of time keeps a fixed ratio to it, a plateau does not.

So the answer is the same for a·loss + b, a > 0, and no scale of the loss has to be known.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from hessian_probe.training.thresholds import (
    ACCELERATION,
    BLOCKS,
    CHUNK,
    FLAT_SPEED,
    JUDGEMENTS,
    NEGLIGIBLE,
    NOISE_SHARE,
    RISING,
    SIGNIFICANT,
    SLOW_SPEED,
)
from hessian_probe.training.trends import Trend, fit, oscillates, thirds

KINDS = ("none", "flat", "slow", "oscillating", "diverging", "noisy")
NONE, FLAT, SLOW, OSCILLATING, DIVERGING, NOISY = range(len(KINDS))


class PlateauStatistics(NamedTuple):
    """What is remembered of a stream of values; bounded, whatever its length.

    Attributes:
        count: values seen.
        recent: the last `window` values, newest last.
        blocks: means over `stride` chunks each, oldest first; `filled` of them are in use.
        filled: blocks in use.
        stride: chunks in each block; doubles when the blocks are full.
        partial: mean of the block that is being filled.
        held: chunks in it.
        reference: fall over half the run that progress is compared with, in the stream's unit.
        reference_at: `count` when it was seen.
        kind: index into `KINDS` of the verdict that stands.
        candidate: what the latest judgement alone says.
    """

    count: Any
    recent: Any
    blocks: Any
    filled: Any
    stride: Any
    partial: Any
    held: Any
    reference: Any
    reference_at: Any
    kind: Any
    candidate: Any


class PlateauVerdict(NamedTuple):
    """What the test found: kind (index into `KINDS`) and the numbers behind it.

    `fall` and `error` are those of the window, `speed` is the present speed over the run's own (NaN if
    the run has none), `noise` the standard deviation of single values, `reference` what speed is
    compared with.
    """

    kind: Any
    fall: Any
    error: Any
    noise: Any
    speed: Any
    reference: Any


def new_statistics(xp: ModuleType, window: int, dtype: Any, gain: Any = 0.0) -> PlateauStatistics:
    """Start a stream.

    Args:
        xp: `numpy` or `jax.numpy`.
        window: values that show the present trend.
        dtype: floating dtype of the values.
        gain: decrease of the loss by the step just taken, as a first measure of progress.

    Returns:
        The empty stream.
    """

    def whole(value: int) -> Any:
        return xp.full((), value, np.int32)

    def real(value: Any) -> Any:
        return xp.asarray(value, dtype)

    return PlateauStatistics(
        count=whole(0),
        recent=xp.zeros(window, dtype),
        blocks=xp.zeros(BLOCKS, dtype),
        filled=whole(0),
        stride=whole(1),
        partial=real(0.0),
        held=whole(0),
        reference=real(gain),
        reference_at=real(2.0 * window),
        kind=whole(NONE),
        candidate=whole(NONE),
    )


def absorb(xp: ModuleType, s: PlateauStatistics, values: Any) -> PlateauStatistics:
    """Add a chunk of values.

    Args:
        xp: `numpy` or `jax.numpy`.
        s: the stream.
        values: shape (CHUNK,), finite, of the stream's dtype.

    Returns:
        The stream after them.

    Cost:
        A pass over `window + BLOCKS` numbers.
    """
    held = s.held + 1
    mean = values[0] + xp.sum(values - values[0]) / CHUNK
    partial = s.partial + (mean - s.partial) / held.astype(s.partial.dtype)
    done = held >= s.stride
    s = s._replace(count=s.count + CHUNK, recent=xp.concatenate([s.recent[CHUNK:], values]))
    if xp is np and not done:  # saves the host, which can ask, most of the work
        return s._replace(partial=partial, held=held)
    index = xp.arange(BLOCKS, dtype=np.int32)
    blocks = xp.where((index == s.filled) & done, partial, s.blocks)
    filled = s.filled + done.astype(np.int32)
    full = filled >= BLOCKS
    pairs = blocks.reshape(BLOCKS // 2, 2)
    merged = xp.concatenate([pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) / 2, xp.zeros_like(pairs[:, 0])])
    return s._replace(
        blocks=xp.where(full, merged, blocks),
        filled=xp.where(full, np.int32(BLOCKS // 2), filled),
        stride=xp.where(full, 2 * s.stride, s.stride),
        partial=xp.where(done, xp.zeros_like(partial), partial),
        held=xp.where(done, xp.zeros_like(held), held),
    )


def judged_at(count: Any, every: int) -> Any:
    """Whether a stream is judged after `count` values: every `every`, and ever less often in a long run."""
    return count % (every * (1 + count // (JUDGEMENTS * every))) == 0


def judge(xp: ModuleType, s: PlateauStatistics) -> tuple[PlateauStatistics, PlateauVerdict]:
    """Judge the stream at its present end.

    Args:
        xp: `numpy` or `jax.numpy`.
        s: the stream.

    Returns:
        The stream with its reference and kind brought up to date, and the verdict.

    Cost:
        A few sorts of a few hundred numbers.
    """
    dtype, window = s.recent.dtype, s.recent.shape[0]
    total = xp.maximum(s.count, 1).astype(dtype)
    length = max(window, BLOCKS)
    blocks = s.blocks - s.recent[-1]
    history = _padded(xp, blocks, length)
    index = xp.arange(length, dtype=np.int32)
    used = index < s.filled
    lines = xp.stack([_padded(xp, s.recent - s.recent[-1], length), history, history])
    masks = [index < window, used & (2 * index >= s.filled), used & (4 * index >= 3 * s.filled)]
    trends = fit(xp, lines, xp.stack(masks), _rounding(xp, s))
    short, half, quarter = (trends.at(number) for number in range(3))

    aged = s.reference * xp.square(s.reference_at / xp.maximum(total, s.reference_at))
    first, second, doubt = thirds(
        xp, blocks, s.filled, xp.stack([s.filled // 2, xp.zeros_like(s.filled)]), _rounding(xp, s)
    )
    accelerating = _accelerating(xp, first[1], second[1], doubt[1])
    first, second, doubt = first[0], second[0], doubt[0]
    # Between the middles of the first and the last third lie two thirds of the half.
    seen = 1.5 * (first + second - SIGNIFICANT * doubt * float(np.sqrt(2.0)))
    renewed = (seen > aged) & (s.count >= window)
    reference = xp.where(renewed, seen, aged)
    s = s._replace(
        reference=xp.where(renewed, seen, s.reference), reference_at=xp.where(renewed, total, s.reference_at)
    )
    last_half = 1.5 * (first + second + SIGNIFICANT * doubt * float(np.sqrt(2.0)))
    negligible = (last_half < NEGLIGIBLE * blocks[0]) & (s.count >= 4 * window)
    return _decide(xp, s, short, half, quarter, reference, accelerating, negligible)


def _padded(xp: ModuleType, y: Any, length: int) -> Any:
    return xp.concatenate([y, xp.zeros(length - y.shape[0], y.dtype)])


def _decide(
    xp: ModuleType,
    s: PlateauStatistics,
    short: Trend,
    half: Trend,
    quarter: Trend,
    reference: Any,
    accelerating: Any,
    negligible: Any,
) -> tuple[PlateauStatistics, PlateauVerdict]:
    """Weigh the trends at three lengths against the run's own progress."""
    dtype = s.recent.dtype
    window = s.recent.shape[0]
    total = xp.maximum(s.count, 1).astype(dtype)
    known = reference > 0
    unit = xp.where(known, reference, xp.ones_like(reference))

    def in_units(trend: Trend, length: Any) -> tuple[Any, Any]:
        per_half = total / (2 * length)
        return trend.fall * per_half / unit, SIGNIFICANT * trend.error * per_half / unit

    speed, doubt = in_units(short, float(window))
    far_speed, far_doubt = in_units(quarter, xp.maximum(total / 4, float(window)))
    falls = short.fall > SIGNIFICANT * short.error
    long = s.count >= 4 * window
    far_falls = (quarter.fall > SIGNIFICANT * quarter.error) & long
    flat = known & (speed + doubt < FLAT_SPEED) & (2 * s.count >= 3 * window)
    far_flat = known & long & (far_speed + far_doubt < FLAT_SPEED)
    silent = ~falls & (half.fall < SIGNIFICANT * half.error)
    excluded = xp.maximum(half.fall, 0.0) + SIGNIFICANT * half.error
    lost = silent & long & (excluded < NOISE_SHARE * short.noise)
    still = short.noise <= 4 * _rounding(xp, s)  # a few units in the last place
    rises = (-short.fall > RISING * short.error) & (-short.fall > short.noise)
    worse = rises & (-short.fall > SLOW_SPEED * reference)
    swings = oscillates(xp, short, window) & ~falls & ~still

    slow = known & xp.where(falls, speed < SLOW_SPEED, far_falls & (far_speed < SLOW_SPEED))
    slow = slow | (accelerating & falls) | (negligible & (falls | far_falls))
    kind = xp.where(falls | far_falls, np.int32(NONE), np.int32(NOISY))
    kind = xp.where(slow, np.int32(SLOW), kind)
    kind = xp.where(flat | (far_flat & ~falls) | lost | (still & ~falls), np.int32(FLAT), kind)
    kind = xp.where(swings, np.int32(OSCILLATING), kind)
    kind = xp.where(worse, np.int32(DIVERGING), kind)
    kind = xp.where(s.count < window, np.int32(NONE), kind)
    # An alarm is raised when two judgements in a row agree; before, the older kind holds.
    sure = (kind == s.candidate) | (kind == NONE) | (kind == NOISY)
    stands = xp.where(sure, kind, s.kind)
    nan = xp.full_like(speed, np.nan)
    verdict = PlateauVerdict(
        stands, short.fall, short.error, short.noise, xp.where(known, speed, nan), reference
    )
    return s._replace(kind=stands, candidate=kind), verdict


def _rounding(xp: ModuleType, s: PlateauStatistics) -> Any:
    """Rounding of the newest value: of single precision where all values are numbers of that."""
    dtype = s.recent.dtype
    single = xp.all(s.recent.astype(np.float32).astype(dtype) == s.recent)
    eps = xp.where(
        single, np.asarray(np.finfo(np.float32).eps, dtype), np.asarray(np.finfo(dtype).eps, dtype)
    )
    return eps * xp.abs(s.recent[-1])


def _accelerating(xp: ModuleType, earlier: Any, later: Any, error: Any) -> Any:
    """Whether the loss has fallen faster and faster since the start: a run that began on a plateau."""
    # The difference of the falls weighs the three medians with 1, −1 − ACCELERATION and ACCELERATION.
    spread = float(np.sqrt(1 + (1 + ACCELERATION) ** 2 + ACCELERATION**2))
    return later - ACCELERATION * xp.maximum(earlier, 0.0) > SIGNIFICANT * spread * error
