"""The plateau test inside compiled training steps: one value at a time, no branch but `lax.cond`."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.stream import CHUNK, Stream, absorb, judge, new_stream


class Watch(NamedTuple):
    """A stream with what compiled steps need beside it.

    Attributes:
        stream: what is remembered.
        chunk: values that wait to be taken in, newest last, shape (CHUNK,).
        held: number of them.
        fall: fall of the loss over the latest window.
        noise: standard deviation of single values in it.
        level: its median.
    """

    stream: Stream
    chunk: jax.Array
    held: jax.Array
    fall: jax.Array
    noise: jax.Array
    level: jax.Array


def new_watch(window: int, dtype: Any, gain: Any = 0.0) -> Watch:
    """Start to watch, after a jump that brought `gain`."""
    zero = jnp.zeros((), dtype)
    return Watch(
        stream=new_stream(jnp, window, dtype, gain),
        chunk=jnp.zeros((CHUNK,), dtype),
        held=jnp.zeros((), jnp.int32),
        fall=zero,
        noise=zero,
        level=jnp.full((), np.nan, dtype),
    )


def observe(watch: Watch, value: jax.Array, every: int) -> Watch:
    """Add a value; one that is not finite is left out.

    Args:
        watch: what was seen before.
        value: scalar of the stream's dtype.
        every: values between judgements, a multiple of CHUNK.

    Returns:
        What has been seen now.
    """
    finite = jnp.isfinite(value)
    chunk = jnp.where(finite, jnp.concatenate([watch.chunk[1:], value[None]]), watch.chunk)
    held = watch.held + finite.astype(jnp.int32)
    watch = watch._replace(chunk=chunk, held=held)
    return jax.lax.cond(held >= CHUNK, lambda: _take_in(watch, every), lambda: watch)


def _take_in(watch: Watch, every: int) -> Watch:
    stream = absorb(jnp, watch.stream, watch.chunk)
    watch = watch._replace(stream=stream, held=jnp.zeros_like(watch.held))
    return jax.lax.cond(stream.count % every == 0, lambda: _judged(watch), lambda: watch)


def _judged(watch: Watch) -> Watch:
    stream, verdict = judge(jnp, watch.stream)
    return watch._replace(
        stream=stream, fall=verdict.fall, noise=verdict.noise, level=jnp.median(stream.recent)
    )
