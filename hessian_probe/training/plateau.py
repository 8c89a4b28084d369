"""The plateau test, on the host and in compiled steps: does a stream of losses still fall, by how much?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.training.plateau_statistics import (
    KINDS,
    PlateauStatistics,
    PlateauVerdict,
    absorb,
    judge,
    judged_at,
    new_statistics,
)
from hessian_probe.training.thresholds import CHUNK, LASTS
from hessian_probe.training.trends import median


class PlateauTest:
    """Judge from a stream of losses whether training still makes progress.

    The kinds: "none" (it falls as the run so far lets expect, or too little was seen yet), "flat" (no
    progress, beyond doubt of the noise), "slow" (progress, small beside the run's own, or only just
    beginning to grow), "oscillating", "diverging" (rises, or is not finite), "noisy" (a trend worth
    having can be neither shown nor excluded).  The answer is the same for a·loss + b, a > 0, up to
    rounding, and a spike does not change it.

    Args:
        window: steps over which the present trend is measured; the test is silent until then.
        every: steps between judgements, a multiple of 4; from 128·every steps on they grow slowly, to at most
            1/128 of the run.  The kind holds in between.
        of: what the values are, for the evidence; the norm of the gradient is judged as the loss is.

    Attributes:
        statistics: what is remembered.
        pending: values that wait for their chunk.
        broken: the latest value was not finite.
        verdict: the numbers behind the kind, or None before the first.

    Raises:
        ValueError: `window` is below 16, or one of the two is no multiple of 4.

    Cost:
        Time and memory for a few hundred numbers per value, whatever the length of the run.

    Example:
        >>> test = PlateauTest()
        >>> {test.update(2.0**-step) for step in range(32)}  # less than a window
        {'none'}
        >>> [test.update(2.0**-32) for _ in range(160)][-1]
        'flat'
    """

    def __init__(self, *, window: int = 64, every: int = 8, of: str = "loss") -> None:
        check_lengths(window, every)
        self.window, self.every, self.of = window, every, of
        self.broken = False
        self.pending: list[float] = []
        self.statistics = new_statistics(np, window, np.float64)
        self.verdict: PlateauVerdict | None = None

    @property
    def kind(self) -> str:
        """The verdict that stands."""
        return "diverging" if self.broken else KINDS[int(self.statistics.kind)]

    @property
    def fresh(self) -> bool:
        """Whether the latest value was judged at once."""
        return not self.pending and self._asked() and self.verdict is not None

    @property
    def level(self) -> float:
        """Median of the window."""
        return float(np.median(self.statistics.recent))

    @property
    def lasts(self) -> bool:
        """Whether the values have not fallen to a tenth of what they were, and do not fall now."""
        seen = self.statistics.blocks[: int(self.statistics.filled)]
        highest = float(np.max(seen, initial=self.level))
        return self.verdict is not None and self.kind != "none" and self.level > LASTS * highest

    def update(self, value: Any) -> str:
        """Add a value and return the kind.

        Args:
            value: real scalar; one that is not finite is "diverging" and not remembered.

        Returns:
            The kind.
        """
        self.broken = not np.isfinite(value)
        if not self.broken:
            self.pending.append(float(value))
        if len(self.pending) == CHUNK:
            self.statistics = absorb(np, self.statistics, np.asarray(self.pending))
            self.pending.clear()
            if self._asked():
                self.statistics, self.verdict = judge(np, self.statistics)
        return self.kind

    def _asked(self) -> bool:
        return bool(judged_at(int(self.statistics.count), self.every))

    def restart(self, gain: float = 0.0) -> None:
        """Forget the values, after a step that gained `gain`; the next verdict takes a window."""
        self.resume(new_statistics(np, self.window, np.float64, gain), [], None)

    def resume(
        self, statistics: PlateauStatistics, pending: list[float], verdict: PlateauVerdict | None
    ) -> None:
        """Continue with saved statistics, values that wait for their chunk, and a verdict."""
        self.statistics, self.pending, self.verdict = statistics, pending, verdict

    def evidence(self) -> EscapeReason:
        """Return the numbers that decided."""
        found, seen = self.verdict, int(self.statistics.count)
        if self.broken:
            return EscapeReason("value_nonfinite", of=self.of)
        if found is None or seen < self.window:
            return EscapeReason("few_values", seen=seen + len(self.pending), window=self.window)
        fall = float(found.fall)
        trend = {"window": self.window, "of": self.of, "fall": fall, "size": abs(fall)}
        trend |= {"error": float(found.error), "noise": float(found.noise)}
        if not float(found.reference) > 0:
            return EscapeReason("trend", **trend)
        return EscapeReason("trend_in_run", **trend, speed=abs(float(found.speed)))


def check_lengths(window: int, every: int) -> None:
    """Refuse a window or an interval that the test cannot work with."""
    if window < 16 or window % CHUNK:
        raise ValueError(
            f"window={window}; expected a multiple of {CHUNK}, at least 16: a trend is fitted to it"
        )
    if every < CHUNK or every % CHUNK:
        raise ValueError(f"every={every}; expected a multiple of {CHUNK}")


class TracedPlateau(NamedTuple):
    """A stream with what compiled steps need beside it: each keeps a value, some judge them.

    Attributes:
        statistics: what is remembered.
        waiting: values that wait to be taken in, oldest first, shape (every,); `held` of them are in use.
        held: number of them.
        fall: fall of the loss over the latest window.
        noise: standard deviation of single values in it.
        level: its median.
    """

    statistics: PlateauStatistics
    waiting: jax.Array
    held: jax.Array
    fall: jax.Array
    noise: jax.Array
    level: jax.Array


def new_plateau(window: int, every: int, dtype: Any, gain: Any = 0.0) -> TracedPlateau:
    """Return the state before any value, after a step that gained `gain`."""
    return TracedPlateau(
        statistics=new_statistics(jnp, window, dtype, gain),
        waiting=jnp.zeros((every,), dtype),
        held=jnp.zeros((), jnp.int32),
        fall=jnp.zeros((), dtype),
        noise=jnp.zeros((), dtype),
        level=jnp.full((), np.nan, dtype),
    )


def window_full(plateau: TracedPlateau) -> jax.Array:
    """Whether as many values wait as are added together."""
    return plateau.held >= plateau.waiting.shape[0]


def judge_waiting(plateau: TracedPlateau) -> TracedPlateau:
    """Add the values that wait, and judge the stream where that is due."""
    every = plateau.waiting.shape[0]
    chunks = plateau.waiting.reshape(-1, CHUNK)
    statistics, _ = jax.lax.scan(lambda s, chunk: (absorb(jnp, s, chunk), None), plateau.statistics, chunks)
    plateau = plateau._replace(statistics=statistics, held=jnp.zeros_like(plateau.held))
    return run_if(judged_at(statistics.count, every), _judge, plateau)


def _judge(plateau: TracedPlateau) -> TracedPlateau:
    statistics, verdict = judge(jnp, plateau.statistics)
    level = median(jnp, statistics.recent)
    return plateau._replace(statistics=statistics, fall=verdict.fall, noise=verdict.noise, level=level)


def run_if(go: jax.Array, change: Callable[[Any], Any], held: Any) -> Any:
    """Return `change(held)` if `go`, else `held`, untouched in its place.

    A loop of one pass or none: XLA lets the branches of `lax.cond` write to buffers of their own, so that
    the one with nothing to do copies all of `held`; a loop changes its state in place.
    """

    def body(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return jnp.zeros_like(carry[0]), change(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], body, (go, held))[1]


def select(where: jax.Array, new: Any, old: Any) -> Any:
    """Return one pytree or the other, with the dtypes of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(where, jnp.asarray(a).astype(b.dtype), b), new, old)
