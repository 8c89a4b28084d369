"""The plateau test inside compiled training steps: each step keeps a value, some steps judge them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.plateau_statistics import (
    CHUNK,
    PlateauStatistics,
    absorb,
    judge,
    judged_at,
    new_statistics,
)
from hessian_probe.training.trends import median


class TracedPlateau(NamedTuple):
    """A stream with what compiled steps need beside it.

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
