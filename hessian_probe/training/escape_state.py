"""What `escape_saddles` remembers from step to step, and its bookkeeping."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.training.pacing import BACKOFF, BACKOFF_AT_MINIMUM, LEFT, PAUSE, earliest
from hessian_probe.training.stream import FLAT, SLOW, Stream
from hessian_probe.training.watch import Watch, new_watch

# Scalars of `Memory` in the order of the packed arrays; those with a prefix are in its watch and stream.
COUNTS = (
    "num_steps",
    "num_probes",
    "num_escapes",
    "num_hvps",
    "num_gradients",
    "num_evaluations",
    "last_step",
    "watch_held",
    "stream_count",
    "stream_filled",
    "stream_stride",
    "stream_held",
    "stream_kind",
    "stream_candidate",
)
NUMBERS = (
    "expected",
    "pause",
    "next_look",
    "level",
    "scale",
    "wasted",
    "last_curvature",
    "last_gain",
    "watch_fall",
    "watch_noise",
    "watch_level",
    "stream_partial",
    "stream_reference",
    "stream_reference_at",
)


class EscapeState(NamedTuple):
    """State of `escape_saddles`: few arrays, because each costs every step of a Python loop a microsecond.

    What is packed in `counts` and `numbers` can be read by name too.

    Attributes:
        inner: state of the optimiser inside.
        pending: step that the latest look found, taken already or waiting to be confirmed.
        counts: whole numbers, shape (14,).
        numbers: real numbers, shape (14,).
        waiting: losses that are not judged yet, shape (every,).
        recent: losses before them, shape (window,).
        blocks: means over the whole run, shape (128,).
        kind: verdict of the plateau test, an index into "none", "flat", "slow", "oscillating", "diverging",
            "noisy".
        num_steps: updates.
        num_probes: looks taken.
        num_escapes: steps off saddles that were accepted.
        num_hvps: Hessian-vector products spent.
        num_gradients: gradients evaluated beside the optimiser's.
        num_evaluations: losses likewise.
        next_look: update before which nothing is looked at.
        last_curvature: lowest curvature of the latest look that spent products; NaN before the first.
        last_gain: what the latest accepted escape brought on its own batch.
        last_step: update at which it was accepted; 0 before the first.
    """

    inner: Any
    pending: Any
    counts: jax.Array
    numbers: jax.Array
    waiting: jax.Array
    recent: jax.Array
    blocks: jax.Array

    def __getattr__(self, name: str) -> Any:
        name = "stream_kind" if name == "kind" else name
        if name in COUNTS:
            return self.counts[..., COUNTS.index(name)]
        if name in NUMBERS:
            return self.numbers[..., NUMBERS.index(name)]
        raise AttributeError(f"EscapeState has no {name!r}")


class Memory(NamedTuple):
    """An `EscapeState` unpacked.

    Attributes:
        inner: state of the optimiser inside.
        pending: step that the latest look found.
        watch: what the plateau test remembers.
        expected: what `pending` brought on its own batch; 0 where nothing waits.
        pause: steps that the next look which finds nothing is followed by, at least.
        next_look: update before which nothing is looked at.
        level: loss at the latest look that found nothing; NaN where there is none.
        scale: larger of the loss's noise and its fall over the window then.
        wasted: gradients' worth of looks that brought nothing, since the latest escape.

    The rest as in `EscapeState`.
    """

    inner: Any
    pending: Any
    watch: Watch
    expected: jax.Array
    pause: jax.Array
    next_look: jax.Array
    level: jax.Array
    scale: jax.Array
    num_steps: jax.Array
    num_probes: jax.Array
    num_escapes: jax.Array
    num_hvps: jax.Array
    num_gradients: jax.Array
    num_evaluations: jax.Array
    wasted: jax.Array
    last_curvature: jax.Array
    last_gain: jax.Array
    last_step: jax.Array


def new_state(inner: Any, pending: Any, window: int, every: int, dtype: Any) -> EscapeState:
    """Start, with an optimiser's state and room for a step."""

    def whole() -> jax.Array:
        return jnp.zeros((), jnp.int32)

    def real(value: float) -> jax.Array:
        return jnp.asarray(value, dtype)

    memory = Memory(
        inner=inner,
        pending=pending,
        watch=new_watch(window, every, dtype),
        expected=real(0.0),
        pause=real(PAUSE * window),
        next_look=real(0.0),
        level=real(np.nan),
        scale=real(0.0),
        num_steps=whole(),
        num_probes=whole(),
        num_escapes=whole(),
        num_hvps=whole(),
        num_gradients=whole(),
        num_evaluations=whole(),
        wasted=real(0.0),
        last_curvature=real(np.nan),
        last_gain=real(0.0),
        last_step=whole(),
    )
    return pack(memory)


def pack(memory: Memory) -> EscapeState:
    """Put all scalars into two arrays."""
    watch, stream = memory.watch, memory.watch.stream
    fields = memory._asdict()
    fields |= {f"watch_{name}": value for name, value in watch._asdict().items()}
    fields |= {f"stream_{name}": value for name, value in stream._asdict().items()}
    return EscapeState(
        inner=memory.inner,
        pending=memory.pending,
        counts=jnp.stack([fields[name] for name in COUNTS]),
        numbers=jnp.stack([fields[name] for name in NUMBERS]),
        waiting=watch.waiting,
        recent=stream.recent,
        blocks=stream.blocks,
    )


def unpack(state: EscapeState) -> Memory:
    """Take them out again."""

    def parts(kind: Any, prefix: str, **own: Any) -> Any:
        rest = (name for name in kind._fields if name not in own)
        return kind(**own, **{name: getattr(state, prefix + name) for name in rest})

    stream = parts(Stream, "stream_", recent=state.recent, blocks=state.blocks)
    watch = parts(Watch, "watch_", stream=stream, waiting=state.waiting)
    return cast(Memory, parts(Memory, "", inner=state.inner, pending=state.pending, watch=watch))


def note(state: EscapeState, value: jax.Array) -> tuple[EscapeState, jax.Array]:
    """Count a step and keep its loss, one that is not finite left out.

    Args:
        state: what was seen before.
        value: scalar.

    Returns:
        What has been seen now, and whether there is more to do: to judge, or to confirm a step.

    Cost:
        Three small operations, all that a healthy step does.
    """
    index = np.arange(len(COUNTS))
    held = COUNTS.index("watch_held")
    value = value.astype(state.waiting.dtype)
    step = (index == COUNTS.index("num_steps")).astype(np.int32)
    kept = (index == held).astype(np.int32) * jnp.isfinite(value).astype(jnp.int32)
    waiting = jax.lax.dynamic_update_index_in_dim(state.waiting, value, state.counts[held], 0)
    state = state._replace(counts=state.counts + step + kept, waiting=waiting)
    return state, (state.counts[held] >= waiting.shape[0]) | (state.expected > 0)


def now(state: Memory) -> jax.Array:
    """Return the number of updates, as a real number."""
    return state.num_steps.astype(state.pause.dtype)


def stuck(state: Memory) -> jax.Array:
    """Whether the loss is flat or slow, nothing waits, and no pause lasts."""
    kind = state.watch.stream.kind
    return ((kind == FLAT) | (kind == SLOW)) & (now(state) >= state.next_look) & ~(state.expected > 0)


def after_progress(state: Memory, window: int) -> Memory:
    """Let pauses start anew once the loss has left the plateau of the latest look."""
    left = state.level - state.watch.level > LEFT * state.scale
    return state._replace(
        pause=jnp.where(left, jnp.full_like(state.pause, PAUSE * window), state.pause),
        level=jnp.where(left, jnp.full_like(state.level, np.nan), state.level),
    )


def after_look(
    state: Memory,
    fruitless: jax.Array,
    negative: jax.Array,
    cost: jax.Array,
    price: float,
    max_share: float,
) -> Memory:
    """Note what a look that found nothing has cost; one that the plateau test asked for makes it wait.

    It waits longer each time, and longest without negative curvature.

    Args:
        state: before.
        fruitless: whether nothing was found.
        negative: whether there was negative curvature.
        cost: of the look, in gradients.
        price: of the next one at most.
        max_share: share of the run's gradients that looks in vain may cost.

    Returns:
        The state after it.
    """
    dtype = state.pause.dtype
    wasted = state.wasted + jnp.where(fruitless, cost, 0).astype(dtype)
    next_look = earliest(now(state), state.pause, wasted, price, max_share, jnp.maximum)
    longer = (next_look - now(state)) * jnp.where(negative, BACKOFF, BACKOFF_AT_MINIMUM).astype(dtype)
    watch = state.watch
    waits = fruitless & stuck(state)
    return state._replace(
        wasted=wasted,
        next_look=jnp.where(waits, next_look, state.next_look),
        pause=jnp.where(waits, longer, state.pause),
        level=jnp.where(waits, watch.level, state.level),
        scale=jnp.where(waits, jnp.maximum(jnp.abs(watch.fall), watch.noise), state.scale),
    )


def after_escape(state: Memory, moved: jax.Array, gain: jax.Array, window: int) -> Memory:
    """Start to watch anew where a step was taken, and count it."""
    dtype, every = state.pause.dtype, state.watch.waiting.shape[0]
    fresh = new_watch(window, every, dtype, gain)
    return state._replace(
        watch=jax.tree.map(lambda new, old: jnp.where(moved, new, old), fresh, state.watch),
        pause=jnp.where(moved, jnp.asarray(PAUSE * window, dtype), state.pause),
        level=jnp.where(moved, jnp.full_like(state.level, np.nan), state.level),
        wasted=jnp.where(moved, jnp.zeros_like(state.wasted), state.wasted),
        num_escapes=state.num_escapes + moved.astype(jnp.int32),
        last_gain=jnp.where(moved, gain, state.last_gain),
        last_step=jnp.where(moved, state.num_steps, state.last_step),
    )
