"""Runs of `benchmarks.escape`: training until a plateau is left, in compiled chunks or from the host."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.escape_problems import Plateau, minibatch
from hessian_probe.training import Monitor

# Steps in one compiled call.
CHUNK = 500


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: was the plateau left; steps, what the hook spent beside them, and seconds."""

    left: bool
    steps: int
    products: int
    gradients: int
    evaluations: int
    escapes: int
    seconds: float


def make_runner(p: Plateau, method: Any) -> Callable[[int, float], Run]:
    """Compile a chunk of training once, and run it seed by seed until the plateau is left."""
    method = optax.with_extra_args_support(method)

    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        batch = minibatch(p.data, p.batch, key)
        args = (params,) if batch is None else (params, batch)
        value, gradient = jax.value_and_grad(p.loss)(*args)
        true = value if p.batch is None else p.loss(params, p.data)
        updates, state = method.update(gradient, state, params, value=value, batch=batch)
        spent = [
            getattr(state, name, jnp.asarray(0))
            for name in ("num_hvps", "num_gradients", "num_losses", "num_escapes")
        ]
        return (optax.apply_updates(params, updates), state), (true, *spent)

    @jax.jit
    def chunk(params: Any, state: Any, key: jax.Array) -> Any:
        return jax.lax.scan(step, (params, state), jax.random.split(key, CHUNK))

    warm: list[bool] = []

    def run(seed: int, scale: float) -> Run:
        params = jax.tree.map(lambda leaf: scale * leaf, p.start(seed))
        state = method.init(params)
        if not warm:  # compiled before the clock runs
            jax.block_until_ready(chunk(params, state, jax.random.key(seed)))
            warm.append(True)
        began, done = time.perf_counter(), 0
        while done < p.steps:
            key = jax.random.fold_in(jax.random.key(seed), done)
            (params, state), trace = chunk(params, state, key)
            losses, *spent = map(np.asarray, trace)
            below = np.flatnonzero(losses < p.left)
            done += CHUNK
            if len(below) or not np.isfinite(losses[-1]):
                break
        seconds = time.perf_counter() - began
        at = int(below[0]) if len(below) else CHUNK - 1
        steps = done - CHUNK + at + 1
        return Run(bool(len(below)), steps, *(int(column[at]) for column in spent), seconds * steps / done)

    return run


class Watched(NamedTuple):
    """An optimiser in a Python loop with a `Monitor`."""

    optimizer: Any


def make_watched(p: Plateau, method: Watched) -> Callable[[int, float], Run]:
    """Train step by step, on the batches that `make_runner` draws, with a monitor that sees what it does."""
    optimizer = optax.with_extra_args_support(method.optimizer)

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array) -> Any:
        batch = minibatch(p.data, p.batch, key)
        args = (params,) if batch is None else (params, batch)
        value, gradient = jax.value_and_grad(p.loss)(*args)
        true = value if p.batch is None else p.loss(params, p.data)
        updates, state = optimizer.update(gradient, state, params, value=value)
        return optax.apply_updates(params, updates), state, (value, true), batch

    def run(seed: int, scale: float) -> Run:
        params = jax.tree.map(lambda leaf: scale * leaf, p.start(seed))
        state = optimizer.init(params)
        monitor = Monitor(p.loss, p.data if p.batch is None else None)
        began, left, number = time.perf_counter(), False, 0
        while number < p.steps and not left:
            for key in jax.random.split(jax.random.fold_in(jax.random.key(seed), number), CHUNK):
                params, state, (value, true), batch = step(params, state, key)
                number += 1
                left = float(true) < p.left
                if left:
                    break
                event = monitor.update(
                    number, params, value, opt_state=state, batch=None if p.batch is None else batch
                )
                params, state = event.params, event.opt_state
        cost = monitor.cost
        losses, moved = cost.num_losses, monitor.state.num_escapes
        seconds = time.perf_counter() - began
        return Run(left, number, cost.num_hvps, cost.num_gradients, losses, moved, seconds)

    return run
