"""What is remembered of a stream of losses, and how it is judged; for NumPy and JAX alike.

* Means over at most 128 equal blocks show the whole run in bounded memory; values enter as medians of four or
  more, so that single spikes leave no trace.
* The blocks in use are divided into eighths.  Differences between the means of eighths are the trends, and
  the median of the blocks' second differences, which know no trend, is their noise.
* What counts as progress is measured by the run itself: the fall over the second half of the run so far.  A
  loss that falls like a power of time keeps a fixed ratio to it, a plateau does not.

So the answer is the same for a·loss + b, a > 0, and no scale of the loss has to be known.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from hessian_probe.arrays import select
from hessian_probe.training.thresholds import (
    ACCELERATION,
    BLOCKS,
    FLAT_SPEED,
    GAUSSIAN,
    NEGLIGIBLE,
    NOISE_SHARE,
    RISING,
    SIGNIFICANT,
    SLOW_SPEED,
)

KINDS = ("none", "flat", "slow", "oscillating", "diverging", "noisy")
NONE, FLAT, SLOW, OSCILLATING, DIVERGING, NOISY = range(len(KINDS))
EIGHTHS = 8


class PlateauStatistics(NamedTuple):
    """What is remembered of a stream of values; bounded, whatever its length.

    Attributes:
        blocks: means over `stride` chunks each, oldest first; `filled` of them are in use.
        filled: blocks in use.
        stride: chunks in each block; doubles when the blocks are full.
        held: chunks in the block that is being filled.
        partial: its mean so far.
        first: median of the first chunk.
        gain: decrease of the loss by the step that the stream began with.
    """

    blocks: Any
    filled: Any
    stride: Any
    held: Any
    partial: Any
    first: Any
    gain: Any


class PlateauVerdict(NamedTuple):
    """What the test found, over the last eighth of the run where nothing else is said.

    Attributes:
        kind: index into `KINDS`.
        fall: fall from the eighth before to the last.
        error: its standard error.
        noise: standard deviation of single values, if they are independent.
        speed: fall over that of the latest half, per step; NaN where the half shows none.
        most: fall over as much as half the run that training may make as it goes now; at least 0.
        progress: fall since the highest eighth; at least the stream's `gain`.
        level: mean.
    """

    kind: Any
    fall: Any
    error: Any
    noise: Any
    speed: Any
    most: Any
    progress: Any
    level: Any


def new_statistics(xp: ModuleType, dtype: Any, gain: Any = 0.0) -> PlateauStatistics:
    """Start a stream, with the decrease of the loss by the step just taken as a first measure of progress."""
    none, one = (xp.full((), value, np.int32) for value in (0, 1))
    zero, gain = xp.zeros((), dtype), xp.asarray(gain, dtype)
    return PlateauStatistics(xp.zeros(BLOCKS, dtype), none, one, none, zero, zero, gain)


def absorb(xp: ModuleType, s: PlateauStatistics, values: Any) -> PlateauStatistics:
    """Add a chunk of values: an even number of them, finite, of the stream's dtype."""
    half = len(values) // 2
    middle = xp.sum(_descending(xp, values)[half - 1 : half + 1] / 2)
    held = s.held + 1
    partial = s.partial + (middle - s.partial) / held.astype(s.partial.dtype)
    done = held >= s.stride
    blocks = select((np.arange(BLOCKS, dtype=np.int32) == s.filled) & done, partial, s.blocks)
    filled = s.filled + done.astype(np.int32)
    full = filled >= BLOCKS
    pairs = blocks[::2] / 2 + blocks[1::2] / 2
    return s._replace(
        first=select(s.filled + s.held <= 0, middle, s.first),
        blocks=select(full, xp.concatenate([pairs, pairs]), blocks),
        filled=select(full, BLOCKS // 2, filled),
        stride=select(full, 2 * s.stride, s.stride),
        held=select(done, 0, held),
        partial=select(done, 0.0, partial),
    )


def judge(xp: ModuleType, s: PlateauStatistics, chunk: int, rounding: float) -> PlateauVerdict:
    """Return the verdict on the stream at its present end; "none" with fewer than eight blocks.

    Values were added `chunk` at a time, each with a relative error of `rounding`.  A sort and a few passes.
    """
    dtype, lifted = s.blocks.dtype, s.blocks[0]
    blocks, numbers = s.blocks - lifted, np.arange(BLOCKS, dtype=np.int32)
    # The half keeps quotients of compiled programs, which round, off whole numbers.
    number = xp.floor(
        (EIGHTHS * numbers + 0.5).astype(dtype) / xp.maximum(s.filled, np.int32(1)).astype(dtype)
    )
    eighths = (number[None] == np.arange(EIGHTHS, dtype=dtype)[:, None]).astype(dtype)
    means = xp.sum(eighths * blocks[None], axis=1) / xp.maximum(xp.sum(eighths, axis=1), np.ones((), dtype))
    slopes = blocks[1:] - blocks[:-1]
    unused = numbers[2:] >= s.filled
    ranked = _descending(xp, select(unused, -1.0, xp.abs(slopes[1:] - slopes[:-1])))
    bend = xp.sum(select(numbers[2:] != (s.filled + 2) >> 1, 0.0, ranked))

    last = means[7]
    fall, quarter, half = means[6] - last, means[5] - last, means[3] - last
    level = lifted + last
    rounding = rounding * xp.abs(level)
    noise = GAUSSIAN / float(np.sqrt(6.0)) * bend * xp.sqrt(s.stride.astype(dtype) * chunk)
    # Of the smallest eighth.
    size = (xp.maximum(s.filled >> 3, np.int32(1)) * s.stride).astype(dtype) * chunk
    error = float(np.sqrt(2.0)) * noise / xp.sqrt(size) + rounding
    doubt = SIGNIFICANT * error
    highest, lowest = xp.max(means), xp.min(means)
    progress = xp.maximum(highest - last, s.gain)

    falls = (fall > doubt) | (quarter > doubt) | (half > doubt)
    # Per half of the run, at most.
    fastest = xp.minimum(4 * (fall + doubt), 2 * (quarter + doubt))
    zero = np.zeros((), dtype)
    surely, still_falls = xp.maximum(half - doubt, zero), xp.maximum(half, zero) + doubt
    little = still_falls < NEGLIGIBLE * xp.maximum(s.first - level, progress)
    slow = (fastest < SLOW_SPEED * surely) | (falls & (little | (quarter - doubt > ACCELERATION * progress)))
    lost = little | (still_falls < NOISE_SHARE * noise) | (noise <= 4 * rounding)
    flat = (fastest < FLAT_SPEED * surely) | (lost & ~falls)
    rises = (-fall > RISING * error) & (-fall > noise) & (-4 * fall > SLOW_SPEED * (highest - lowest))

    kind = select(falls, NONE, np.int32(NOISY))
    for holds, name in ((slow, SLOW), (flat, FLAT), (rises, DIVERGING), (s.filled < EIGHTHS, NONE)):
        kind = select(holds, name, kind)
    speed = select(surely <= 0, np.nan, 4 * fall) / xp.maximum(half, error)
    most = xp.minimum(xp.minimum(4 * (fall + error), 2 * (quarter + error)), half + error)
    most = xp.maximum(most, zero)
    return PlateauVerdict(kind, fall, error, noise, speed, most, progress, level)


def _descending(xp: ModuleType, y: Any) -> Any:
    return np.sort(y)[::-1] if xp is np else jax.lax.top_k(y, len(y))[0]
