"""Gradients and seconds to leave saddle plateaus, with and without hooks.

Run as `python -m benchmarks.escape` (or `make bench-escape`).  Products and evaluations of `Monitor` are
counted at their measured cost in gradients; `escape_saddles` spends gradients alone.  Medians over seeds,
with quartiles; ">" marks runs that were given up.  `benchmarks.stuck` has networks with biases, and
`benchmarks.escape_health` what hooks cost where training is well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.escape_problems import Plateau, plateaus, training_step
from benchmarks.report import command_line
from hessian_probe.training import Monitor, escape_saddles

# Steps in one compiled call.
CHUNK = 500
# The hook was developed on seeds 0 and 1 of these problems; figures come from others.
FIRST_SEED = 100
# The hook must need at most this share of the gradients of descent, momentum and perturbed descent.
SHARE = 0.2
BARE = ("descent", "momentum", "perturbed", "adam")
HOOKED = ("descent", "momentum", "adam")


class Run(NamedTuple):
    """One run: was the plateau left; steps, what the hook spent beside them, and seconds."""

    left: bool
    steps: int
    gradients: int
    escapes: int
    seconds: float
    products: int = 0
    evaluations: int = 0


class Watched(NamedTuple):
    """An optimiser in a Python loop with a `Monitor`."""

    optimizer: Any


def make_step(p: Plateau, optimizer: Any) -> Callable[..., Any]:
    """One step on a plateau: (params, state), key ↦ (params, state), (loss, that of all data), batch."""
    step = training_step(p.loss, optax.with_extra_args_support(optimizer), p.batch)

    def noted(carry: Any, key: jax.Array) -> Any:
        new, value, batch = step(carry, p.data, key)
        return new, (value, value if p.batch is None else p.loss(carry[0], p.data)), batch

    return noted


def make_runner(p: Plateau, method: Any) -> Callable[[int, float], Run]:
    """Compile a chunk of training once, and run it seed by seed until the plateau is left."""
    step = make_step(p, method)
    counts = ("num_gradients", "num_escapes")

    def counted(carry: Any, key: jax.Array) -> Any:
        (params, state), (_, true), _ = step(carry, key)
        return (params, state), (true, *(getattr(state, name, jnp.asarray(0)) for name in counts))

    @jax.jit
    def chunk(carry: Any, key: jax.Array) -> Any:
        return jax.lax.scan(counted, carry, jax.random.split(key, CHUNK))

    warm: list[bool] = []

    def run(seed: int, scale: float) -> Run:
        params = jax.tree.map(lambda leaf: scale * leaf, p.start(seed))
        carry = params, method.init(params)
        if not warm:  # compiled before the clock runs
            jax.block_until_ready(chunk(carry, jax.random.key(seed)))
            warm.append(True)
        began, done = time.perf_counter(), 0
        while done < p.steps:
            key = jax.random.fold_in(jax.random.key(seed), done)
            carry, trace = chunk(carry, key)
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


def make_watched(p: Plateau, method: Watched) -> Callable[[int, float], Run]:
    """Train step by step, on the batches that `make_runner` draws, with a monitor that sees what it does."""
    step = jax.jit(make_step(p, method.optimizer))

    def run(seed: int, scale: float) -> Run:
        params = jax.tree.map(lambda leaf: scale * leaf, p.start(seed))
        carry = params, method.optimizer.init(params)
        monitor = Monitor(p.loss, p.data if p.batch is None else None)
        began, left, number = time.perf_counter(), False, 0
        while number < p.steps and not left:
            for key in jax.random.split(jax.random.fold_in(jax.random.key(seed), number), CHUNK):
                (params, state), (value, true), batch = step(carry, key)
                number += 1
                left = float(true) < p.left
                if left:
                    break
                seen = None if p.batch is None else batch
                event = monitor.update(number, params, value, opt_state=state, batch=seen)
                carry = event.params, event.opt_state
        cost, seconds = monitor.cost, time.perf_counter() - began
        other = cost.num_hvps, cost.num_losses
        return Run(left, number, cost.num_gradients, monitor.state.num_escapes, seconds, *other)

    return run


def perturbed_descent(rate: float, radius: float, threshold: float, wait: int) -> Any:
    """Perturbed gradient descent (Jin et al. 2017, algorithm 1): at a small gradient, a random step."""

    def init(params: Any) -> Any:
        return jnp.asarray(0), jnp.asarray(-wait)

    def update(gradient: Any, state: Any, params: Any = None, **_: Any) -> Any:
        step, last = state
        norm = optax.tree.norm(gradient)
        due = (norm <= threshold) & (step - last > wait)
        leaves, structure = jax.tree.flatten(gradient)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(1), step), len(leaves) + 1)
        draws = [jax.random.normal(k, g.shape, g.dtype) for k, g in zip(keys, leaves, strict=False)]
        share = jax.random.uniform(keys[-1]) ** (1 / sum(leaf.size for leaf in leaves))
        length = radius * share / jnp.sqrt(sum(jnp.sum(d**2) for d in draws))
        noise = jax.tree.unflatten(structure, [jnp.where(due, length * d, 0 * d) for d in draws])
        moves = jax.tree.map(lambda g, d: -rate * (g - d / rate), gradient, noise)
        return moves, (step + 1, jnp.where(due, step, last))

    return optax.GradientTransformationExtraArgs(init, update)


def methods(p: Plateau, which: str) -> dict[str, Any]:
    """Optimisers by name: the bare ones and each with the hook, or a comparison of the hook's options."""
    # The gradient at the start of a plateau is small by construction: twice that is "small" there.
    slope = jax.grad(p.loss)(p.start(0), *p.args)
    threshold = np.e / 100 if p.data is None else 2 * float(optax.tree.norm(slope))
    plain = {
        "descent": optax.sgd(p.rate),
        "momentum": optax.sgd(p.rate, momentum=0.9),
        "adam": optax.adam(p.adam_rate),
        "perturbed": perturbed_descent(p.rate, p.radius, threshold, 1 if p.data is None else 50),
    }
    if which == "moments":
        return {
            f"{base} + hook, {how}": escape_saddles(plain[base], p.loss, moments=how)
            for base in ("momentum", "adam")
            for how in ("keep", "reset", "project")
        }
    hooks = {f"{base} + hook": escape_saddles(plain[base], p.loss) for base in HOOKED}
    if which == "hooks":
        return plain | hooks
    watched = {f"{base} + Monitor": Watched(plain[base]) for base in HOOKED}
    every = plain | hooks | watched
    return {name: every[name] for base in HOOKED for name in (base, f"{base} + hook", f"{base} + Monitor")}


class Summary(NamedTuple):
    """Medians over seeds: gradients, accepted escapes; and whether every run left."""

    gradients: float
    escapes: float
    left: bool


def prices(p: Plateau) -> tuple[float, float]:
    """Cost of a product and of an evaluation in gradients; the fastest of runs in turn, least disturbed."""
    params = p.start(0)
    args = p.args if p.batch is None else (jax.tree.map(lambda leaf: leaf[: p.batch], p.data),)
    repeats = jnp.arange(50.0)

    def gradient(x: Any) -> Any:
        return jax.grad(p.loss)(x, *args)

    def repeated(function: Callable[[Any], Any], x: Any) -> Any:
        """Values at points a hair apart, so that no evaluation can be saved."""
        return jax.lax.map(lambda i: function(jax.tree.map(lambda leaf: leaf * (1 + 1e-6 * i), x)), repeats)

    @jax.jit
    def gradients(x: Any) -> Any:
        return repeated(lambda at: optax.tree.norm(gradient(at)), x)

    @jax.jit
    def products(x: Any) -> Any:
        _, apply = jax.linearize(gradient, x)
        return repeated(lambda at: optax.tree.norm(apply(at)), x)

    @jax.jit
    def values(x: Any) -> Any:
        return repeated(lambda at: p.loss(at, *args), x)

    kinds = (gradients, products, values)
    times: list[list[float]] = [[] for _ in kinds]
    for _ in range(30):
        for kind, kept in zip(kinds, times, strict=True):
            began = time.perf_counter()
            jax.block_until_ready(kind(params))
            kept.append(time.perf_counter() - began)
    base, product, value = (min(kept) for kept in times)
    return product / base, value / base


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    low, middle, high = np.percentile(values, [25, 50, 75])
    return float(low), float(middle), float(high)


def compare(p: Plateau, seeds: int, which: str, only: str = "") -> dict[float, dict[str, Summary]]:
    """Run every method on one plateau, from every scale of the start, and print the rows.

    A run that was given up counts with the gradients it had spent, so ratios to it are upper bounds.
    """
    product, evaluation = prices(p)
    print(f"\n{p.name}: left below {p.left:.4g}")
    print(f"  a product costs {product:.2f} gradients, a loss {evaluation:.2f}")
    found: dict[float, dict[str, Summary]] = {scale: {} for scale in p.scales}
    for name, method in methods(p, which).items():
        if only not in name:
            continue
        run = make_watched(p, method) if isinstance(method, Watched) else make_runner(p, method)
        for scale in p.scales:
            runs = [run(FIRST_SEED + number, scale) for number in range(seeds)]
            costs = [r.steps + r.gradients + product * r.products + evaluation * r.evaluations for r in runs]
            low, middle, high = quartiles(costs)
            first, second, third = quartiles([r.seconds for r in runs])
            left = sum(r.left for r in runs)
            moved = float(np.median([r.escapes for r in runs]))
            found[scale][name] = Summary(middle, moved, left == seeds)
            more = " " if left == seeds else ">"
            print(
                f"  {name + _times(scale):<32} left {left}/{seeds}  gradients {more}{middle:8.0f}"
                f" ({low:.0f} … {high:.0f})  seconds {second:.3f} ({first:.3f} … {third:.3f})"
                f"  escapes {moved:g}",
                flush=True,
            )
    return found


def _times(scale: float) -> str:
    return "" if scale == 1 else f", start × {scale:g}"


class Verdict(NamedTuple):
    """A hook held against the bare optimisers: a row, the plateau's length, and whether it met the bar."""

    row: str
    length: float
    met: bool


def verdicts(name: str, found: dict[str, Summary]) -> dict[str, Verdict]:
    """Hold each hook against its own optimiser and the others; nothing is taken from the best of two.

    A hook that never moved anything has earned nothing, however fast its optimiser was.
    """
    judged = {}
    length = min(found[other].gradients for other in BARE if other != "adam")
    for base in HOOKED:
        hook = found[f"{base} + hook"]
        ratios = [(other, hook.gradients / found[other].gradients) for other in BARE]
        text = "  ".join(f"{other} {ratio:5.2f}" for other, ratio in ratios)
        # What a hook has earned shows beside its own optimiser; on Adam no bar is set.
        met = all(ratio <= SHARE for other, ratio in ratios if other != "adam") and hook.left
        met = met and hook.escapes > 0 and base != "adam"
        word = "did nothing" if hook.escapes == 0 else f"{dict(ratios)[base]:.2f} of {base} alone"
        if base != "adam":
            word += ", bar met" if met else ", bar not met"
        word += "" if hook.left else ", not every run left"
        row = f"{name:<36} {base + ' + hook':<16} {text}   escapes {hook.escapes:g}   {word}"
        judged[base] = Verdict(row, length, met)
    return judged


def break_even(rows: list[dict[str, Verdict]]) -> None:
    """Print from which length of a plateau on each hook met the bar."""
    print(
        f"\nBar {SHARE} by the length of a plateau (fewest gradients of descent, momentum, perturbed descent)"
    )
    for base in ("descent", "momentum"):
        missed = [row[base].length for row in rows if not row[base].met]
        beyond = [row[base].length for row in rows if row[base].length > max(missed, default=0.0)]
        print(
            f"  {base} + hook: met on {len(rows) - len(missed)} of {len(rows)}; missed up to "
            f"{max(missed, default=0.0):.0f}, met on all {len(beyond)} longer ones"
            + (f", from {min(beyond):.0f} on" if beyond else "")
        )


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="starts for each plateau")
    parser.add_argument("--only", default="", help="plateaus whose name holds this")
    parser.add_argument("--methods", default="", help="methods whose name holds this; no ratios then")
    choices = ("hooks", "moments", "monitor")
    parser.add_argument("--compare", choices=choices, default="hooks", help="what stands in the rows")
    options = parser.parse_args()
    rows: list[dict[str, Verdict]] = []
    for p in plateaus():
        if options.only in p.name:
            found = compare(p, options.seeds, options.compare, options.methods)
            if options.compare == "hooks" and not options.methods:
                rows += [verdicts(p.name + _times(scale), each) for scale, each in found.items()]
    if rows:
        print(f"\nGradients of a hook over those of the bare optimisers (bar {SHARE}; Adam has none):")
        print("\n".join(verdict.row for row in rows for verdict in row.values()))
        break_even(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
