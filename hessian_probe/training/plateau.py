"""The plateau test on the host: does a stream of losses still fall, and by how much?"""

from __future__ import annotations

from typing import Any

import numpy as np

from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.training.plateau_statistics import (
    KINDS,
    NONE,
    OSCILLATING,
    PlateauStatistics,
    PlateauVerdict,
    absorb,
    judge,
    new_statistics,
)
from hessian_probe.training.thresholds import ALTERNATING, CHUNKS, LASTS, RINGING, SWINGS


class PlateauTest:
    """Judge from a stream of losses whether training still makes progress.

    The kinds: "none" (it falls as the run so far lets expect, or too little was seen yet), "flat" (no
    progress, beyond doubt of the noise), "slow" (progress, small beside the run's own, or only just
    beginning to grow), "oscillating", "diverging" (rises, or is not finite), "noisy" (a trend worth
    having can be neither shown nor excluded).  The answer is the same for a·loss + b, a > 0, up to
    rounding, and a spike does not change it.

    Args:
        window: steps until the first verdict, a multiple of 32.  The last eighth of the run shows the present
            trend.  The run is judged 8 times a window at first, and from 16 windows on 64 times before it has
            doubled.
        of: what the values are, for the evidence; the norm of the gradient is judged as the loss is.

    Attributes:
        statistics: what is remembered.
        recent: the latest values, a window or 64 at most.
        pending: how many of them wait to be added.
        broken: the latest value was not finite.
        verdict: the numbers behind the kind.

    Raises:
        ValueError: `window` is no multiple of 32.

    Cost:
        Time and memory for a few hundred numbers per value, whatever the length of the run.

    Example:
        >>> test = PlateauTest()
        >>> {test.update(2.0**-step) for step in range(32)}  # less than a window
        {'none'}
        >>> [test.update(2.0**-32) for _ in range(160)][-1]
        'flat'
    """

    def __init__(self, *, window: int = 64, of: str = "loss") -> None:
        self.window, self.chunk, self.of = window, chunk_of(window), of
        self.statistics, self.verdict = new_statistics(np, np.float64), UNKNOWN
        self.recent: list[float] = []
        self.pending, self.broken = 0, False

    @property
    def kind(self) -> str:
        """The verdict that stands."""
        return "diverging" if self.broken else KINDS[int(self.verdict.kind)]

    @property
    def fresh(self) -> bool:
        """Whether the latest value was judged at once."""
        return not self.pending and not self.statistics.held and self.count >= self.window

    @property
    def count(self) -> int:
        """Values added."""
        s = self.statistics
        return int(s.filled * s.stride + s.held) * self.chunk

    @property
    def lasts(self) -> bool:
        """Whether the values have not fallen to a tenth of what they were, and do not fall now."""
        seen = self.statistics.blocks[: int(self.statistics.filled)]
        highest = float(np.max(seen, initial=float(self.verdict.level)))
        return self.kind != "none" and float(self.verdict.level) > LASTS * highest

    def update(self, value: Any) -> str:
        """Add a value and return the kind.

        Args:
            value: real scalar; one that is not finite is "diverging" and not remembered.

        Returns:
            The kind.
        """
        self.broken = not np.isfinite(value)
        if not self.broken:
            self.recent = [*self.recent[1 - max(self.window, SWINGS) :], float(value)]
            self.pending += 1
        if self.pending == self.chunk:
            self.statistics = absorb(np, self.statistics, np.asarray(self.recent[-self.chunk :]))
            self.pending = 0
            if self.fresh:
                self.verdict = self._judge()
        return self.kind

    def _judge(self) -> PlateauVerdict:
        recent = np.asarray(self.recent)
        # Where all values are numbers of single precision, they are not better known than that.
        with np.errstate(over="ignore"):
            dtype = np.float32 if np.all(recent.astype(np.float32) == recent) else np.float64
        found = judge(np, self.statistics, self.chunk, float(np.finfo(dtype).eps))
        swings = len(recent) >= SWINGS and oscillates(recent)
        swings = swings and np.ptp(recent) > 8 * np.finfo(dtype).eps * abs(recent[-1])
        return found._replace(kind=np.int32(OSCILLATING)) if swings else found

    def restart(self, gain: float = 0.0) -> None:
        """Forget the values, after a step that gained `gain`; the next verdict takes a window."""
        self.resume(new_statistics(np, np.float64, gain), UNKNOWN, [], 0)

    def resume(
        self, statistics: PlateauStatistics, verdict: PlateauVerdict, recent: list[float], pending: int
    ) -> None:
        """Continue with saved statistics, a verdict, and values of which some wait for their chunk."""
        self.statistics, self.verdict, self.recent, self.pending = statistics, verdict, recent, pending
        self.broken = False

    def evidence(self) -> EscapeReason:
        """Return the numbers that decided."""
        found = self.verdict
        if self.broken:
            return EscapeReason("value_nonfinite", of=self.of)
        if self.count < self.window:
            return EscapeReason("few_values", seen=self.count + self.pending, window=self.window)
        fall = float(found.fall)
        trend = {"steps": self.count // 8, "of": self.of, "fall": fall, "size": abs(fall)}
        trend |= {"error": float(found.error), "noise": float(found.noise)}
        if not np.isfinite(found.speed):
            return EscapeReason("trend", **trend)
        return EscapeReason("trend_in_run", **trend, speed=abs(float(found.speed)))


UNKNOWN = PlateauVerdict(np.int32(NONE), *np.full(7, np.nan))


def chunk_of(window: int) -> int:
    """Values that are added at a time; raises ValueError where a window is of no use."""
    if window < 4 * CHUNKS or window % (4 * CHUNKS):
        raise ValueError(f"window={window}; expected a multiple of {4 * CHUNKS}")
    return window // CHUNKS


def oscillates(values: np.ndarray) -> bool:
    """Return whether values alternate, or ring undamped with a period of at most a quarter of their number.

    Deviations from a line are judged, spikes clipped to a fence round the middle 80 %, where they exceed the
    line's fall.  With correlations r₁ and r₂ the AR(2) fit is φ₂ = (r₂ − r₁²) / (1 − r₁²), φ₁ = r₁(1 − φ₂); a
    period P solves cos(2π/P) = φ₁ / (2√(−φ₂)).
    """
    x = np.arange(len(values)) - (len(values) - 1) / 2
    slope = x @ (values - values[-1]) / (x @ x)
    rest = values - np.median(values) - slope * x
    low, high = np.quantile(rest, (0.1, 0.9))
    rest = np.clip(rest, 2 * low - high, 2 * high - low)
    rest = rest - np.mean(rest)
    power = rest @ rest
    if not power > 0 or abs(slope) * len(values) > np.sqrt(power / len(values)):
        return False
    r1, r2 = rest[1:] @ rest[:-1] / power, rest[2:] @ rest[:-2] / power
    second = (r2 - r1 * r1) / max(1 - r1 * r1, 1e-6)
    cosine = r1 * (1 - second) / (2 * np.sqrt(max(-second, 1e-6)))
    return bool(r1 < ALTERNATING or (second < RINGING and cosine < np.cos(8 * np.pi / len(values))))
