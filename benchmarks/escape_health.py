"""What the hooks do to training that needs none: final loss, time, alarms, looks, compilations."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from hessian_probe import problems
from hessian_probe.training import Monitor, escape_saddles
from hessian_probe.training.stream import KINDS

# Steps in one compiled call; plain and hooked runs take turns call by call, so both see the same machine.
CHUNK = 250


def health(steps: int, seeds: int) -> None:
    """Train a 64-128-128-10 network on the digits, minibatches of 128, with and without hooks."""
    data = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), problems.digits(one_hot=True))
    loss = problems.mlp_loss("tanh", "cross_entropy")
    print(f"\nHealthy training: digits, 64-128-128-10, minibatches of 128, {steps} steps, {seeds} seeds")
    for name, optimizer in (("sgd", optax.sgd(0.05)), ("adam", optax.adam(3e-4))):
        plain = optax.with_extra_args_support(optimizer)
        hooked = escape_saddles(optimizer, loss)
        runs = [_pair(loss, data, plain, hooked, steps, seed) for seed in range(100, 100 + seeds)]
        final = np.array([run["final"] for run in runs])
        seconds = np.array([run["seconds"] for run in runs])
        print(f"  {name}: final loss plain {_spread(final[:, 0])}, hooked {_spread(final[:, 1])}")
        print(f"    time of a chunk, hooked over plain: {_spread([run['ratio'] for run in runs])}")
        print(f"    seconds in all: plain {_spread(seconds[:, 0])}, hooked {_spread(seconds[:, 1])}")
        for key in ("looks", "escapes", "products", "compilations"):
            print(f"    {key}: {[run[key] for run in runs]}")
        print(f"    share of steps by kind: {_shares(runs)}")
        _monitored(loss, data, plain, min(steps, 2000), name)


def _spread(values: Any) -> str:
    low, middle, high = np.percentile(np.asarray(values), [25, 50, 75])
    return f"{middle:.4g} ({low:.4g} … {high:.4g})"


def _shares(runs: list[dict[str, Any]]) -> str:
    kinds = np.concatenate([run["kinds"] for run in runs])
    return ", ".join(
        f"{kind} {np.mean(kinds == i):.3f}" for i, kind in enumerate(KINDS) if np.any(kinds == i)
    )


def _chunk(loss: Callable[..., Any], data: Any, optimizer: Any, traces: list[None]) -> Any:
    def step(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        rows = jax.random.randint(key, (128,), 0, len(data[0]))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params, value=value, batch=batch)
        kind = state.kind if hasattr(state, "num_probes") else jnp.asarray(0)
        return (optax.apply_updates(params, updates), state), kind

    def run(params: Any, state: Any, key: jax.Array) -> Any:
        traces.append(None)
        return jax.lax.scan(step, (params, state), jax.random.split(key, CHUNK))

    return jax.jit(run)


def _pair(
    loss: Callable[..., Any], data: Any, plain: Any, hooked: Any, steps: int, seed: int
) -> dict[str, Any]:
    """Train twice on the same batches, in turns."""
    start = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), problems.mlp_init((64, 128, 128, 10), seed=seed)
    )
    traces: tuple[list[None], list[None]] = ([], [])
    chunks = [_chunk(loss, data, o, kept) for o, kept in zip((plain, hooked), traces, strict=True)]
    carries = [(start, optimizer.init(start)) for optimizer in (plain, hooked)]
    for chunk, carry in zip(chunks, carries, strict=True):  # compiled before the clock runs
        jax.block_until_ready(chunk(*carry, jax.random.key(0)))
    times, kinds = np.zeros((steps // CHUNK, 2)), []
    for number in range(steps // CHUNK):
        key = jax.random.fold_in(jax.random.key(seed), number)
        for which in (0, 1):
            began = time.perf_counter()
            carries[which], kind = jax.block_until_ready(chunks[which](*carries[which], key))
            times[number, which] = time.perf_counter() - began
        kinds.append(np.asarray(kind))
    state = carries[1][1]
    return {
        "final": [float(loss(params, data)) for params, _ in carries],
        "seconds": times.sum(axis=0),
        "ratio": float(np.median(times[:, 1] / times[:, 0])),
        "looks": int(state.num_probes),
        "escapes": int(state.num_escapes),
        "products": int(state.num_hvps),
        "compilations": len(traces[1]),
        "kinds": np.concatenate(kinds),
    }


def _monitored(loss: Callable[..., Any], data: Any, optimizer: Any, steps: int, name: str) -> None:
    """Train once from the host with a monitor; its own time against that of the steps."""
    params = jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float32), problems.mlp_init((64, 128, 128, 10), seed=100)
    )
    state = optimizer.init(params)
    monitor = Monitor(loss)

    @jax.jit
    def step(params: Any, state: Any, key: jax.Array) -> Any:
        rows = jax.random.randint(key, (128,), 0, len(data[0]))
        batch = jax.tree.map(lambda leaf: leaf[rows], data)
        value, gradient = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, batch

    jax.block_until_ready(step(params, state, jax.random.key(0)))
    began = time.perf_counter()
    for number in range(steps):
        params, state, value, batch = step(params, state, jax.random.fold_in(jax.random.key(1), number))
        jax.block_until_ready(value)  # or the monitor would be charged for the step
        event = monitor.update(number, params, value, state, batch)
        params, state = event.params, event.opt_state
    rest = time.perf_counter() - began - monitor.cost.seconds
    cost = monitor.cost
    watching = 1e6 * (cost.seconds - cost.probe_seconds) / steps
    print(
        f"    Monitor, {name}, {steps} steps from the host: {watching:.0f} μs a step to watch, "
        f"{1e6 * rest / steps:.0f} μs for the step; {cost.num_probes} looks, {cost.num_escapes} escapes, "
        f"{cost.probe_seconds:.2f} s in looks"
    )
