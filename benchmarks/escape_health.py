"""What the hook costs, and changes, where training is well; and what it adds to the compiled step.

Run as `python -m benchmarks.escape_health`.  Three tables:

* the step: seconds to compile, operations of the program (lines of StableHLO), bytes of temporaries, and
  microseconds a step inside `lax.scan`, plain and hooked in turns;
* trainings from their usual starts (the rows of `benchmarks.stuck`, and the critic of a GAN): for how many of
  the first 300 steps the parameters are bit for bit those of the plain run, when the first search ends,
  escapes and gradients, the loss on all data at the end.  A hooked run is worse where its end is above the
  highest of the plain runs over all seeds by 5 % of what the run gains;
* the monitor: its own time in an update, and what its probes cost.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.escape_problems import minibatch, training_step
from benchmarks.report import command_line, seconds
from benchmarks.stuck import LOOK, STEPS, Trained, Training, trainings
from benchmarks.stuck_rows import CE, Row, lines, momentum, times
from benchmarks.zoo import image_models, models, sequence_models
from benchmarks.zoo.layers import cast
from hessian_probe.training import Monitor, escape_events, escape_saddles
from hessian_probe.training.backoff import cost_in_gradients

# The share of what a run gains that its end may be above the highest plain one.
SPREAD = 0.05
# Steps of a timed scan: judged every eight, and too few for a search.
TURNS, CHUNK = 15, 60


NARROW, WIDE = models.dense((64, 32, 32, 10), "tanh"), models.dense((64, 600, 600, 600, 10), "gelu")
# Healthy trainings on the digits: name, network, optimiser, samples in a batch.
ARCHITECTURES = [
    Row(name, lines, network, CE, times(1), optimizer, batch)
    for name, network, optimizer, batch in (
        ("dense, 64-32-32-10", NARROW, momentum(0.05), 64),
        ("dense, 64-600-600-600-10", WIDE, optax.adam(1e-3), 64),
        ("the same, batches of 512", WIDE, optax.adam(1e-3), 512),
        ("convolutional", image_models.convolutional("gelu", (8, 8)), momentum(0.05), 64),
        ("recurrent", sequence_models.gru(16, 8, 10), momentum(0.05), 64),
        ("transformer", sequence_models.transformer(32, 10, 2), optax.adam(1e-3), 64),
    )
]


class Program(NamedTuple):
    """A step with its start, and what compiling it took."""

    step: Callable[..., Any]
    carry: Any
    seconds: float
    lines: int
    temporaries: int


def program(loss: Any, optimizer: Any, params: Any, batch: Any) -> Program:
    """Compile a step on one batch."""
    step = training_step(loss, optimizer, None)
    carry = params, optimizer.init(params)
    donated = jax.jit(lambda carry, batch: step(carry, batch, None)[:2], donate_argnums=0)
    spent = []
    for _ in range(3):
        jax.clear_caches()
        lowered = donated.lower(carry, batch)
        spent.append(seconds(lowered.compile))
    temporaries = lowered.compile().memory_analysis().temp_size_in_bytes
    return Program(step, carry, min(spent), len(lowered.as_text().splitlines()), temporaries)


def steps() -> None:
    """Compilation and time of a step."""
    print(f"{'':<28}{'compilation':>16}{'operations':>21}{'temporaries':>22}{'a step of a scan':>26}")
    for row in ARCHITECTURES:
        loss, params, data = row.make(0)
        batch = minibatch(data, row.batch, jax.random.key(0))
        optimizers = optax.with_extra_args_support(row.optimizer), escape_saddles(row.optimizer, loss)
        both = [program(loss, optimizer, params, batch) for optimizer in optimizers]
        plain, hooked = both
        spent = timed(both, batch)
        print(
            f"{row.name:<28}{plain.seconds:5.2f} → {hooked.seconds:4.2f} s "
            f"{hooked.seconds / plain.seconds:5.1f}{plain.lines:8} → {hooked.lines:5} "
            f"{hooked.lines / plain.lines:5.1f}{plain.temporaries / 1e3:9,.0f} → "
            f"{hooked.temporaries / 1e3:6,.0f} kB {hooked.temporaries / plain.temporaries:5.2f}"
            f"{1e6 * spent[0]:9,.0f} μs {1e6 * (spent[1] - spent[0]):+6.1f} μs "
            f"{spent[1] / spent[0] - 1:+6.1%}",
            flush=True,
        )


def timed(programs: list[Program], batch: Any) -> list[float]:
    """Median seconds of a step, the programs in turns."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(step: Callable[..., Any], carry: Any, batch: Any) -> Any:
        return jax.lax.scan(lambda c, _: step(c, batch, None)[:2], carry, None, length=CHUNK)

    calls = [functools.partial(run, each.step, each.carry, batch) for each in programs]
    spent = [[seconds(call) / CHUNK for call in calls] for _ in range(TURNS + 1)]
    return [float(each) for each in np.median(spent[1:], axis=0)]  # the first turn compiles


# Trainings.


class Healthy(NamedTuple):
    """A training without and with the hook; the loss at its start, and how many steps are the same."""

    name: str
    start: float
    plain: Trained
    hooked: Trained
    same: int


def pairs(only: str, seeds: int) -> list[Healthy]:
    """All trainings from their usual starts, and a critic."""
    found = []
    for each in trainings(only, seeds):
        hook, start = escape_saddles(each.row.optimizer, each.loss), float(each.loss(each.good, each.data))
        plain, hooked = each.run("plain", each.row.optimizer, each.good), each.run("hook", hook, each.good)
        same = identical(each, hook) if each.seed == 0 else 0
        found.append(Healthy(each.row.name, start, plain, hooked, same))
    return found + [critic(seed) for seed in range(seeds) if only in "critic of a GAN"]


def identical(each: Training, hook: Any, count: int = 300) -> int:
    """Steps until parameters of a hooked run differ in a bit from those of the plain one, or escape."""
    plain = optax.with_extra_args_support(each.row.optimizer)
    gradient, apply = jax.jit(jax.value_and_grad(each.loss)), jax.jit(optax.apply_updates)
    runs = [[jax.jit(how.update), each.good, how.init(each.good)] for how in (plain, hook)]
    for number in range(count):
        batch = minibatch(each.data, each.row.batch, jax.random.key(number))
        for run in runs:
            update, at, state = run
            value, slope = gradient(at, batch)
            updates, state = update(slope, state, at, value=value, batch=batch)
            run[1:] = apply(at, updates), state
        if not jax.tree.all(jax.tree.map(np.array_equal, *(at for _, at, _ in runs))):
            return number
    return count


def critic(seed: int) -> Healthy:
    """Digits against what a generator makes of noise, both trained by Adam; the hook is the critic's."""
    (start_g, make), (start_d, judge) = models.dense((8, 64, 64), "relu"), models.dense((64, 64, 1), "relu")
    (data, _), generator, params = cast((lines(seed), start_g(seed), start_d(seed + 1)), jnp.float32)
    inner = optax.adam(1e-3)

    def loss(params: Any, batch: Any) -> jax.Array:
        real, made = (judge(params, part)[:, 0] for part in batch)
        return jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(made))

    def fooled(generator: Any, params: Any, noise: Any) -> jax.Array:
        return jnp.mean(jax.nn.softplus(-judge(params, make(generator, noise))[:, 0]))

    def run(optimizer: Any) -> Trained:
        def step(carry: Any, key: jax.Array) -> Any:
            params, state, generator, other = carry
            rows, draw = jax.random.split(key)
            noise = jax.random.normal(draw, (64, 8))
            batch = minibatch(data, 64, rows), make(generator, noise)
            value, gradient = jax.value_and_grad(loss)(params, batch)
            updates, state = optimizer.update(gradient, state, params, value=value, batch=batch)
            params = optax.apply_updates(params, updates)
            updates, other = inner.update(jax.grad(fooled)(generator, params, noise), other)
            return (params, state, optax.apply_updates(generator, updates), other), value

        keys = jax.random.split(jax.random.key(seed), STEPS)
        first = params, optimizer.init(params), generator, inner.init(generator)
        (end, state, _, _), values = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(first)
        means = np.asarray(values).reshape(-1, LOOK).mean(axis=1)
        return Trained(means, np.zeros(len(means)), end, state)

    plain, hooked = run(optax.with_extra_args_support(inner)), run(escape_saddles(inner, loss))
    return Healthy("critic of a GAN", float(plain.losses[0]), plain, hooked, 0)


def table(only: str, seeds: int) -> None:
    """Plain and hooked, seed by seed."""
    found = pairs(only, seeds)
    print(f"\n{'training':<32}seed  the same  first search  escapes  back  gradients   plain end  hooked end")
    worse, spent = 0, []
    for number, each in enumerate(found):
        state = each.hooked.state
        ends = [other.plain.end for other in found if other.name == each.name]
        bad = each.hooked.end > max(ends) + SPREAD * (each.start - max(ends))
        worse += bad
        spent.append(int(state.num_gradients) / STEPS)
        first = next((f"{row['step']:,}" for row in escape_events(each.hooked.state)), "–")
        name = each.name.replace(", zero", "").replace(", small", "")  # what spoils the start
        print(
            f"{name:<32}{number % seeds:>4}{each.same or '':>10}{first:>14}{int(state.num_escapes):>9}"
            f"{int(state.num_rollbacks):>6}{int(state.num_gradients):>11}"
            f"{each.plain.end:12.4g}{each.hooked.end:12.4g}{'  worse' if bad else ''}",
            flush=True,
        )
    if found:
        print(
            f"{worse} of {len(found)} end worse; the hook's gradients are {np.median(spent):.2%} of the "
            f"run's in the median, {np.mean(spent):.2%} in the mean, {np.max(spent):.2%} at most"
        )


def monitored(count: int = 2000) -> None:
    """Train from the host with a monitor, and time it apart from the steps."""
    row = ARCHITECTURES[1]
    loss, params, data = row.make(0)
    optimizer = optax.with_extra_args_support(row.optimizer)
    step, monitor = jax.jit(training_step(loss, optimizer, row.batch)), Monitor(loss)
    carry, own = (params, optimizer.init(params)), []
    began = time.perf_counter()
    for number in range(count):
        carry, value, batch = step(carry, data, jax.random.key(number))
        value, probes = float(value), monitor.state.num_probes
        before = time.perf_counter()
        event = monitor.update(number, carry[0], value, opt_state=carry[1], batch=batch)
        carry = event.params, event.opt_state
        if number and monitor.state.num_probes == probes:
            own.append(time.perf_counter() - before)
    total, cost, state = time.perf_counter() - began, monitor.cost, monitor.state
    spent = cost_in_gradients(cost.num_hvps, cost.num_gradients, cost.num_losses)
    print(
        f"\nMonitor, {row.name}, {count} steps of {1e6 * total / count:,.0f} μs: an update takes "
        f"{1e6 * np.median(own):.0f} μs in the median, {1e6 * np.mean(own):.0f} μs in the mean; "
        f"{state.num_probes} probes cost {spent:.0f} gradients' worth and {state.probe_seconds:.1f} s, "
        "compiling included"
    )


if __name__ == "__main__":
    options = command_line(__doc__, seeds=3, only="trainings").parse_args()
    if not options.only:
        steps()
    table(options.only, options.seeds)
    if not options.only:
        monitored()
