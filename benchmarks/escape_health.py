"""What the hooks do to training that needs none: final loss, time, alarms, searches, compilations.

Plain and hooked runs see the same batches and take turns, call by call, so that both meet the same machine.
Run as `python -m benchmarks.escape_health`; four to six minutes on an idle machine.  `--only` takes part of a
case's name and leaves the rest out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.escape_problems import single, training_step
from benchmarks.report import command_line
from hessian_probe import problems
from hessian_probe.training import Monitor, escape_events, escape_saddles
from hessian_probe.training.backoff import cost_in_gradients
from hessian_probe.training.plateau_statistics import FLAT, SLOW

# Steps in one compiled call.
CHUNK = 250
# The bar: share of the time of a healthy step.
BAR = 0.02
FIRST_SEED = 100


class Case(NamedTuple):
    """A network on the digits."""

    name: str
    loss: Callable[..., Any]  # of parameters and a batch
    init: Callable[[int], Any]  # parameters for a seed
    batch: int | None  # size of a minibatch; None: all data
    share: float  # steps over those of the shortest case


def cases() -> list[Case]:
    """Steps of different lengths, with few and with many parameters."""

    def network(*layers: int) -> Callable[[int], Any]:
        return lambda seed: problems.mlp_init(layers, seed=seed)

    loss = problems.mlp_loss("tanh", "cross_entropy")
    return [
        Case("64-128-128-10, batches of 128", loss, network(64, 128, 128, 10), 128, 1.0),
        Case("64-128-128-10, all 1,797", loss, network(64, 128, 128, 10), None, 0.2),
        Case("64-256-256-10, batches of 512", loss, network(64, 256, 256, 10), 512, 0.2),
        Case("convolutions 8 and 16, batches of 128", _convolutional, _convolutional_init, 128, 0.2),
        Case("64-512-512-512-10, batches of 512", loss, network(64, 512, 512, 512, 10), 512, 0.2),
    ]


def _convolutional_init(seed: int) -> Any:
    draw = np.random.default_rng(seed).standard_normal
    return {
        "first": draw((3, 3, 1, 8)) / 3,
        "second": draw((3, 3, 8, 16)) / np.sqrt(72),
        "dense": draw((64, 10)) / 8,
        "bias": np.zeros(10),
    }


def _convolutional(params: Any, batch: Any) -> jax.Array:
    """Two 3×3 convolutions with strides of two, and a dense layer."""
    images, labels = batch
    x = images.reshape(-1, 8, 8, 1)
    for name in ("first", "second"):
        x = jax.lax.conv_general_dilated(
            x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jnp.tanh(x)
    logits = x.reshape(len(x), -1) @ params["dense"] + params["bias"]
    return -jnp.mean(jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1))


def health(steps: int = 10_000, seeds: int = 3, only: str = "") -> None:
    """Train every case (of those named) with and without hooks, and print what the hooks did and cost."""
    data, added = single(problems.digits(one_hot=True)), []
    print(
        f"\nHealthy training on the digits; medians (quartiles) over chunks of {CHUNK} steps, {seeds} seeds"
    )
    for case in (case for case in cases() if only in case.name):
        for name, optimizer in (("sgd", optax.sgd(0.05)), ("adam", optax.adam(3e-4))):
            length = CHUNK * max(2, round(steps * case.share / CHUNK))
            runs = _pairs(case, data, optimizer, length, seeds)
            added.append(_report(f"{case.name}, {name}, {length} steps", runs))
    within = f"{sum(share <= BAR for share in added)} of {len(added)} cases stay within {BAR:.0%}"
    print(f"  {within} of a step's processor time, searches aside")
    if only:
        return
    for case in cases()[:2]:
        python_loop(case, data)
        monitored(case, data, round(steps * case.share / 4))
    at_minimum(data)


def _spread(values: Any) -> str:
    low, middle, high = np.percentile(np.asarray(values), [25, 50, 75])
    return f"{middle:.3g} ({low:.3g} … {high:.3g})"


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Count what XLA compiles meanwhile."""
    found: list[str] = []
    active = [True]

    def listen(event: str, _: float, **__: Any) -> None:
        if active[0] and event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    active[0] = False


def _chunk(case: Case, optimizer: Any) -> Callable[..., Any]:
    step = training_step(case.loss, optimizer, case.batch)

    def run(carry: Any, data: Any, key: jax.Array) -> Any:
        return jax.lax.scan(lambda c, k: step(c, data, k)[:2], carry, jax.random.split(key, CHUNK))

    return jax.jit(run, donate_argnums=0)


def _both(case: Case, optimizer: Any) -> list[Any]:
    return [optax.with_extra_args_support(optimizer), escape_saddles(optimizer, case.loss)]


def _starts(case: Case, optimizers: list[Any], seed: int) -> list[Any]:
    starts = [single(case.init(seed)) for _ in optimizers]
    return [(start, o.init(start)) for start, o in zip(starts, optimizers, strict=True)]


def _pairs(case: Case, data: Any, optimizer: Any, steps: int, seeds: int) -> list[dict[str, Any]]:
    """Train without and with the hook, for some seeds."""
    optimizers = _both(case, optimizer)
    chunks = [_chunk(case, o) for o in optimizers]
    for chunk, carry in zip(chunks, _starts(case, optimizers, 0), strict=True):  # compiles
        jax.block_until_ready(chunk(carry, data, jax.random.key(0)))
    seeds_used = range(FIRST_SEED, FIRST_SEED + seeds)
    return [_pair(case, data, chunks, _starts(case, optimizers, seed), steps, seed) for seed in seeds_used]


def _pair(
    case: Case, data: Any, chunks: list[Any], carries: list[Any], steps: int, seed: int
) -> dict[str, Any]:
    """Train twice on the same batches, in turns."""
    wall, work, kinds = np.zeros((steps // CHUNK, 2)), np.zeros((steps // CHUNK, 2)), []
    with compilations() as compiled:
        for number in range(steps // CHUNK):
            key = jax.random.fold_in(jax.random.key(seed), number)
            for which in (0, 1):
                began, worked = time.perf_counter(), time.process_time()
                carries[which], _ = jax.block_until_ready(chunks[which](carries[which], data, key))
                wall[number, which] = time.perf_counter() - began
                work[number, which] = time.process_time() - worked
            kinds.append(int(carries[1][1].kind))
            if number == 0:
                compiled.clear()  # of the keys and of this loop
    state = carries[1][1]
    return {
        "final": [float(case.loss(params, data)) for params, _ in carries],
        "wall": 1e6 * wall / CHUNK,
        "work": 1e6 * work / CHUNK,
        "searches": int(state.num_probes),
        "escapes": int(state.num_escapes),
        "gradients": int(state.num_gradients),
        "compilations": len(compiled),
        "alarms": float(np.mean(np.isin(kinds, [FLAT, SLOW]))),
    }


def _report(name: str, runs: list[dict[str, Any]]) -> float:
    """Print one case, and return the share of processor time that a step took longer, searches aside."""
    print(f"  {name}")
    for what, label in (("wall", "clock"), ("work", "processor")):
        times = np.concatenate([run[what] for run in runs])
        more, share = times[:, 1] - times[:, 0], times[:, 1].sum() / times[:, 0].sum() - 1
        plain = np.median(times[:, 0])
        print(
            f"    {label}: a step takes {plain:.0f} μs, the hook adds {_spread(more)} μs, "
            f"{np.median(more) / plain:.1%}; {share:.1%} in all, searches included"
        )
    final, hooked = np.array([run["final"] for run in runs]).T
    change = hooked - final
    spread = f", seed to seed {np.std(final, ddof=1):.2g}" if len(runs) > 1 else ""
    print(
        f"    final loss {_spread(final)}; the hook changes it by {np.mean(change):.2g} in the mean, "
        f"{np.max(np.abs(change)):.2g} at most{spread}"
    )
    counted = ("searches", "escapes", "gradients", "compilations")
    counts = (f"{key} {[run[key] for run in runs]}" for key in counted)
    alarms = ", ".join(f"{run['alarms']:.1%}" for run in runs)
    print(f"    {'; '.join(counts)}; called flat or slow after {alarms} of the chunks", flush=True)
    return float(np.median(more) / plain)


def python_loop(case: Case, data: Any, calls: int = 50, turns: int = 20) -> None:
    """Time a Python loop of compiled steps whose state is donated."""
    optimizers = _both(case, optax.adam(3e-4))
    carries = _starts(case, optimizers, FIRST_SEED)
    steps = [jax.jit(training_step(case.loss, o, case.batch), donate_argnums=0) for o in optimizers]
    keys = list(jax.random.split(jax.random.key(0), calls))
    times = np.zeros((turns, 2))
    for turn in range(turns):
        for which in (0, 1):
            began = time.process_time()
            for key in keys:
                carries[which], value, _ = steps[which](carries[which], data, key)
            jax.block_until_ready(value)
            times[turn, which] = 1e6 * (time.process_time() - began) / calls
    more = times[1:, 1] - times[1:, 0]
    plain = float(np.median(times[1:, 0]))
    print(
        f"  a Python loop of compiled steps, {case.name}: {plain:.0f} μs of processor time a step, the hook "
        f"adds {_spread(more)} μs, {np.median(more) / plain:.1%}"
    )


def monitored(case: Case, data: Any, steps: int) -> None:
    """Train from the host without and with a monitor on the same batches; its own time against the steps'."""
    optimizer = optax.with_extra_args_support(optax.adam(3e-4))
    carries = _starts(case, [optimizer, optimizer], FIRST_SEED)
    monitor = Monitor(case.loss)
    step = jax.jit(training_step(case.loss, optimizer, case.batch))
    rest = 0.0
    watching: list[list[float]] = [[], []]
    for number in range(steps):
        key = jax.random.fold_in(jax.random.key(1), number)
        carries[0], *_ = jax.block_until_ready(step(carries[0], data, key))
        began = time.thread_time()
        carries[1], value, batch = step(carries[1], data, key)
        value = float(value)  # or the monitor would be charged for the step
        between, probed = time.thread_time(), monitor.state.num_probes
        event = monitor.update(number, carries[1][0], value, opt_state=carries[1][1], batch=batch)
        carries[1] = (event.params, event.opt_state)
        if number:
            rest += between - began
            if monitor.state.num_probes == probed:
                watching[number >= 1000].append(time.thread_time() - between)
    cost, state = monitor.cost, monitor.state
    before, after = (float(case.loss(params, data)) for params, _ in carries)
    spent = cost_in_gradients(cost.num_hvps, cost.num_gradients, cost.num_losses)
    micro = [f"{1e6 * np.mean(times):.0f} μs" if times else "–" for times in watching]
    print(
        f"  Monitor, {case.name}, adam, {steps} steps of {1e6 * rest / steps:.0f} μs: {micro[0]} of "
        f"its thread's time an update in the first thousand, {micro[1]} after; {state.num_probes} probes, "
        f"{state.num_escapes} escapes, {cost.num_hvps} products, {spent:.0f} gradients' worth "
        f"({spent / steps:.1%}), {state.probe_seconds:.1f} s in probes, compiling included; final loss "
        f"{before:.4g}, with it {after - before:+.2g}",
        flush=True,
    )


def at_minimum(data: Any, steps: int = 20_000) -> None:
    """Rest at the minimum of a convex loss: when do the hooks search, and what do they report?"""

    def loss(params: Any) -> jax.Array:
        return jnp.mean(jnp.square(data[0] @ params - small)) + 0.1 * jnp.sum(jnp.square(params))

    small = jnp.sum(data[1][:, :5], axis=1)  # whether a digit is below five

    optimizer = escape_saddles(optax.sgd(0.05), loss)
    step = training_step(loss, optimizer, None)

    def noted(carry: Any, _: Any) -> Any:
        carry, value, _ = step(carry, None, None)
        return carry, (value, carry[1].num_probes)

    params = jnp.zeros(64, jnp.float32)
    run = jax.jit(lambda carry: jax.lax.scan(noted, carry, None, length=steps))
    (params, state), (values, probes) = run((params, optimizer.init(params)))
    searches = 1 + np.flatnonzero(np.diff(np.asarray(probes), prepend=0))
    print(f"  at the minimum of ridge regression, {steps} steps: searches at {searches.tolist()}, ", end="")
    print(f"{state.num_escapes} escapes, the next one not before {float(state.next_probe):.0f}")
    print("      " + escape_events(state)[-1]["evidence"])
    monitor = Monitor(loss)
    spent = []
    for number, value in enumerate(np.asarray(values)):  # the parameters rest from early on
        event = monitor.update(number, params, value)
        spent += [number + 1] if event.num_evaluations else []
    print(f"    Monitor: probes at {spent}; ends with {event.kind!r}; the last probe:")
    print("      " + [row for row in monitor.events if row["num_hvps"]][-1]["evidence"])


if __name__ == "__main__":
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=10_000, help="of the shortest case")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a case's name")
    options = parser.parse_args()
    health(options.steps, options.seeds, options.only)
