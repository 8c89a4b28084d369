"""The plateau test inside compiled training steps: a value a step is kept, and judged now and then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.plateau_statistics import CHUNK, Stream, absorb, judge, judged_at, new_stream
from hessian_probe.training.trends import median


class Watch(NamedTuple):
    """A stream with what compiled steps need beside it.

    Attributes:
        stream: what is remembered.
        waiting: values that wait to be taken in, oldest first, shape (every,); `held` of them are in use.
        held: number of them.
        fall: fall of the loss over the latest window.
        noise: standard deviation of single values in it.
        level: its median.
    """

    stream: Stream
    waiting: jax.Array
    held: jax.Array
    fall: jax.Array
    noise: jax.Array
    level: jax.Array


def new_watch(window: int, every: int, dtype: Any, gain: Any = 0.0) -> Watch:
    """Start to watch, after a jump that brought `gain`."""
    return Watch(
        stream=new_stream(jnp, window, dtype, gain),
        waiting=jnp.zeros((every,), dtype),
        held=jnp.zeros((), jnp.int32),
        fall=jnp.zeros((), dtype),
        noise=jnp.zeros((), dtype),
        level=jnp.full((), np.nan, dtype),
    )


def full(watch: Watch) -> jax.Array:
    """Whether as many values wait as are judged together."""
    return watch.held >= watch.waiting.shape[0]


def judged(watch: Watch) -> Watch:
    """Take in the values that wait, and judge the stream where that is due."""
    every = watch.waiting.shape[0]
    chunks = watch.waiting.reshape(-1, CHUNK)
    stream, _ = jax.lax.scan(lambda s, chunk: (absorb(jnp, s, chunk), None), watch.stream, chunks)
    watch = watch._replace(stream=stream, held=jnp.zeros_like(watch.held))
    return once(judged_at(stream.count, every), _judge, watch)


def _judge(watch: Watch) -> Watch:
    stream, verdict = judge(jnp, watch.stream)
    level = median(jnp, stream.recent)
    return watch._replace(stream=stream, fall=verdict.fall, noise=verdict.noise, level=level)


def once(go: jax.Array, change: Callable[[Any], Any], held: Any) -> Any:
    """Return `change(held)` if `go`, else `held`, untouched in its place.

    A loop of one pass or none: XLA lets the branches of `lax.cond` write to buffers of their own, so that
    the one with nothing to do copies all of `held`; a loop changes its state in place.
    """

    def body(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        return jnp.zeros_like(carry[0]), change(carry[1])

    return jax.lax.while_loop(lambda carry: carry[0], body, (go, held))[1]


def choose(where: jax.Array, new: Any, old: Any) -> Any:
    """Return one pytree or the other, with the dtypes of `old`."""
    return jax.tree.map(lambda a, b: jnp.where(where, jnp.asarray(a).astype(b.dtype), b), new, old)
