"""The price of a verdict: `classify` in gradients' time, and its first answer beside a training step's.

Run as `python -m benchmarks.verdict` (or `make bench-verdict`); each network in a fresh process without a
compilation cache.  Gradients and verdicts take turns, so that ratios hold where the machine's speed wanders;
medians are printed with the range.  `--large` adds a network of GPT-2's shape, 124 million variables;
`--json FILE` keeps the rows, with the device's name.
"""

import argparse
import inspect
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hessian_probe as hp
from benchmarks.endings.models import digits
from benchmarks.report import command_line, in_processes, seconds
from benchmarks.zoo import layers as nn
from benchmarks.zoo import losses, models
from benchmarks.zoo.image_models import convolutional

# Gradients' time that a verdict may take, and first answer ÷ first training step; programs compiled by it.
BARS = {"slope": 30, "plateau": 45, "settled": 100}
FIRST, PROGRAMS = 4.0, 12
COMPILED = "/jax/core/compile/backend_compile_duration"


class Network(NamedTuple):
    """A loss, a start and a batch, and the points that training reaches in a time worth waiting for."""

    make: Callable[[], tuple[Callable[..., Any], Any, Any]]
    points: tuple[str, ...]


def on_digits(network: nn.Model, decay: float) -> Callable[[], tuple[Callable[..., Any], Any, Any]]:
    """A network on 300 digits, with decay."""
    loss = losses.penalised(losses.cross_entropy, decay)(network[1])
    return lambda: (loss, *nn.cast((network[0](0), digits(300)(0)), jnp.float32))


def transformer(
    depth: int, width: int, words: int, length: int, rows: int
) -> Callable[[], tuple[Callable[..., Any], Any, Any]]:
    """A decoder with causal attention, its layers scanned, on the source of a module of Python as bytes."""

    def normed(scale: Any, x: Any) -> Any:
        x = x - x.mean(-1, keepdims=True)
        return scale * x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-5)

    def block(x: Any, layer: Any) -> tuple[Any, None]:
        heads = max(width // 64, 2)
        split = lambda a: a.reshape(*a.shape[:-1], heads, -1).swapaxes(-2, -3)  # noqa: E731
        q, k, v = map(split, jnp.split(normed(layer["norm1"], x) @ layer["qkv"], 3, axis=-1))
        scores = q @ k.swapaxes(-1, -2) / math.sqrt(width / heads)
        weights = jax.nn.softmax(jnp.where(jnp.tri(length, dtype=bool), scores, -jnp.inf))
        x = x + (weights @ v).swapaxes(-2, -3).reshape(x.shape) @ layer["out"]
        return x + jax.nn.gelu(normed(layer["norm2"], x) @ layer["up"]) @ layer["down"], None

    def loss(params: Any, batch: Any) -> Any:
        x = params["words"][batch[:, :-1]] + params["places"]
        x, _ = jax.lax.scan(block, x, params["layers"])
        logits = normed(params["norm"], x) @ params["words"].T
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]))

    def make() -> tuple[Callable[..., Any], Any, Any]:
        rng = np.random.default_rng(0)

        def draw(*shape: int) -> Any:
            return jnp.asarray(0.02 * rng.standard_normal(shape, np.float32))

        shapes = {
            "qkv": (width, 3 * width),
            "out": (width, width),
            "up": (width, 4 * width),
            "down": (4 * width, width),
        }
        layers = {name: draw(depth, *shape) for name, shape in shapes.items()}
        layers |= {name: jnp.ones((depth, width)) for name in ("norm1", "norm2")}
        ends = {"words": draw(words, width), "places": draw(length, width), "norm": jnp.ones(width)}
        text = inspect.getsource(argparse).encode("ascii", "replace")[: rows * (length + 1)]
        batch = np.frombuffer(text, np.uint8).reshape(rows, length + 1)
        return loss, {**ends, "layers": layers}, jnp.asarray(batch, jnp.int32)

    return make


SETTLED = ("slope", "plateau", "settled")
NETWORKS = {
    "dense, 10,430": Network(on_digits(models.dense((64, 120, 20, 10), "tanh"), 1e-3), SETTLED),
    "dense, 85,002": Network(on_digits(models.dense((64, 256, 256, 10), "tanh"), 1e-3), SETTLED),
    "convolution": Network(on_digits(convolutional("gelu", (16, 32)), 3e-3), SETTLED),
    "transformer": Network(transformer(4, 64, 128, 64, 16), ("slope", "plateau")),
}
LARGE = {"GPT-2's shape": Network(transformer(12, 768, 50257, 128, 1), ("slope",))}


def trained(loss: Callable[..., Any], params: Any, batch: Any, optimizer: Any, steps: int) -> Any:
    """Parameters after steps of an optimiser on one batch."""

    @jax.jit
    def step(state: Any) -> Any:
        params, inner = state
        value, gradient = jax.value_and_grad(loss)(params, batch)
        given = {"value": value, "grad": gradient, "value_fn": lambda p: loss(p, batch)}
        update = optax.with_extra_args_support(optimizer).update
        updates, inner = update(gradient, inner, params, **given)
        return optax.apply_updates(params, updates), inner

    state = params, optimizer.init(params)
    for _ in range(steps):
        state = step(state)
    return state[0]


POINTS = {
    "slope": lambda loss, params, batch: trained(loss, params, batch, optax.sgd(0.1), 20),
    "plateau": lambda loss, params, batch: trained(
        loss, jax.tree.map(lambda leaf: 0.02 * leaf, params), batch, optax.sgd(0.1), 50
    ),
    "settled": lambda loss, params, batch: trained(loss, params, batch, optax.lbfgs(), 1500),
}


def measured(name: str, rounds: int) -> list[dict[str, Any]]:
    """Rows of one network, in this process."""
    compiled = [0]
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.__setitem__(0, compiled[0] + (event == COMPILED))
    )
    network = (NETWORKS | LARGE)[name]
    loss, params, batch = network.make()
    step = jax.jit(lambda p, b: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(loss)(p, b)))
    gradient, rows = jax.jit(jax.grad(loss)), []
    first_step = seconds(lambda: step(params, batch))
    for point in network.points:
        where = POINTS[point](loss, params, batch)
        seconds(lambda: gradient(where, batch))  # noqa: B023
        before, began = compiled[0], time.perf_counter()
        verdict = hp.classify(loss, where, batch)
        first, programs = time.perf_counter() - began, compiled[0] - before
        prices, gradients = [], []
        for _ in range(rounds):
            of_gradient = [seconds(lambda: gradient(where, batch)) for _ in range(9)]  # noqa: B023
            gradients.append(statistics.median(of_gradient))
            began = time.perf_counter()
            verdict = hp.classify(loss, where, batch)
            prices.append((time.perf_counter() - began) / gradients[-1])
        rows.append(
            {
                "network": name,
                "variables": verdict.size,
                "point": point,
                "label": verdict.label,
                "gradient_ms": 1e3 * statistics.median(gradients),
                "price": statistics.median(prices),
                "range": (min(prices), max(prices)),
                "products": verdict.num_hvps,
                "evaluations": verdict.num_evaluations,
                "first_s": first,
                "first_step_s": first_step,
                "programs": programs,
            }
        )
    return rows


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__, only="networks")
    parser.add_argument("--rounds", type=int, default=5, help="verdicts timed at each point")
    parser.add_argument("--large", action="store_true", help="124 million variables, too")
    parser.add_argument("--json", help="file that takes the rows")
    options = parser.parse_args()
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)
    names = [name for name in NETWORKS | (LARGE if options.large else {}) if options.only in name]
    device, kept = jax.devices()[0].device_kind, list[dict[str, Any]]()
    print(f"{device}, {os.cpu_count()} cores, jax {jax.__version__}")
    print("network          variables   point     label          price (range), bar   products  evaluations")
    for rows in in_processes([(measured, name, options.rounds) for name in names], 1):
        for row in rows:
            low, high = row["range"]
            said = f"{row['price']:.0f} ({low:.0f} to {high:.0f}), {BARS[row['point']]}"
            print(
                f"{row['network']:<16}{row['variables']:>11,}  {row['point']:<9}{row['label']:<14}{said:>21}"
                f"{row['products']:>10}{row['evaluations']:>12}"
            )
        row = rows[0]
        ratio = row["first_s"] / row["first_step_s"]
        print(
            f"    gradient {row['gradient_ms']:.2f} ms; first answer {row['first_s']:.1f} s, {ratio:.1f} × a "
            f"first training step (bar {FIRST:g}), {row['programs']} programs (bar {PROGRAMS})",
            flush=True,
        )
        kept += rows
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"device": device, "jax": jax.__version__, "rows": kept}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
