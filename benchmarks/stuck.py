"""Trainings that get stuck, on minibatches of real data and with biases: who leaves, and at what cost.

Run as `python -m benchmarks.stuck` (or `make bench-stuck`).  Each row is a training from a start at or beside
a saddle, and the same training from the usual start, which is well.  The plateau's loss is that of the plain
training after 100 steps.  A plateau is left when the loss on all data, looked at every ten steps, has fallen
below it by a tenth of what the well-started run gains; "never": not in 3,000 steps.  The share is that of
this gain at the end.  A row whose framework is not installed is skipped, and says so.

`--compare` holds the hook against what else is done at a plateau, at equal gradients; `--escape` calls
`hp.escape` where training has settled; `--moments` counts gradients until 90 % of that is gained, for ten
optimisers and all that may become of their moments at an escape.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hessian_probe as hp
from benchmarks.escape_problems import minibatch, training_step
from benchmarks.report import command_line
from benchmarks.stuck_rows import ROWS, Row, momentum
from hessian_probe.optimizers.adjust_moments import MOMENTS
from hessian_probe.training import escape_saddles

STEPS = 3000
# Steps between looks at the loss on all data.
LOOK = 10
# Plain steps to the plateau, where `hp.escape` starts and weights are drawn again.
SETTLED = 100
# Share of the well-started run's gain from which on a plateau is left, and the step until which it must last.
LEFT, STUCK = 0.1, 300
# Trainings of the figure.
DRAWN = ("tanh, zero, Adam", "relu, small", "convolution, small", "attention, small")


class Trained(NamedTuple):
    """A training, looked at every ten steps: losses on all data, the hook's gradients, its end."""

    losses: np.ndarray
    extra: np.ndarray
    params: Any
    state: Any

    @property
    def end(self) -> float:
        """The last loss."""
        return float(self.losses[-1])

    def left(self, level: float) -> tuple[int, int] | None:
        """Steps and gradients until the loss was below a level."""
        below = np.flatnonzero(self.losses < level)
        if not len(below):
            return None
        step = LOOK * (int(below[0]) + 1)
        return step, step + int(self.extra[below[0]])


class Training:
    """A row, with one seed's data and starts; programs are compiled once for all seeds of a row."""

    def __init__(self, row: Row, seed: int, programs: dict[str, Any]) -> None:
        self.row, self.seed, self._programs = row, seed, programs
        self.loss, self.good, self.data = row.make(seed)
        self.bad = row.spoil(self.good)
        self.well, self.plateau = self.run("plain", row.optimizer, self.good).end, np.nan

    def run(self, name: str, optimizer: Any, params: Any, steps: int = STEPS) -> Trained:
        """Train from parameters with an optimiser known by its name."""
        if (name, steps) not in self._programs:
            step = training_step(self.loss, optax.with_extra_args_support(optimizer), self.row.batch)

            def looks(carry: Any, keys: jax.Array, data: Any) -> Any:
                carry, _ = jax.lax.scan(lambda c, key: step(c, data, key)[:2], carry, keys)
                extra = getattr(carry[1], "num_gradients", jnp.asarray(0))
                return carry, (self.loss(carry[0], data), extra)

            def run(params: Any, data: Any, key: jax.Array) -> Any:
                keys = jax.random.split(key, (steps // LOOK, LOOK))
                carry = params, optimizer.init(params)
                return jax.lax.scan(lambda c, k: looks(c, k, data), carry, keys)

            self._programs[name, steps] = jax.jit(run)
        (params, state), trace = self._programs[name, steps](params, self.data, jax.random.key(self.seed))
        losses, extra = map(np.asarray, trace)
        return Trained(losses, extra, params, state)

    def both(self) -> tuple[Trained, Trained]:
        """Plain and hooked, from the stuck start; the plain one shows where the plateau is."""
        plain = self.run("plain", self.row.optimizer, self.bad)
        self.plateau = float(plain.losses[SETTLED // LOOK - 1])
        return plain, self.run("hook", escape_saddles(self.row.optimizer, self.loss), self.bad)

    @property
    def level(self) -> float:
        """Loss below which the plateau is left."""
        return self.plateau - LEFT * (self.plateau - self.well)

    def share(self, end: float) -> float:
        """Share of the well-started run's gain."""
        return (self.plateau - end) / (self.plateau - self.well)


def trainings(only: str, seeds: int) -> Iterator[Training]:
    """All rows whose name holds a text, seed by seed."""
    for row in ROWS:
        programs: dict[str, Any] = {}
        for seed in range(seeds) if only in row.name else ():
            try:
                yield Training(row, seed, programs)
            except ImportError as error:
                print(f"{row.name:<36} skipped: {error}")
                break


def table(only: str, seeds: int) -> None:
    """Plain and hooked."""
    print(f"{'':<38}{'plain':>11}{'':11}{'hooked':>13}{'':10}the hook")
    columns = f"{'steps':>7}{'grads':>8}{'share':>7} "
    print(f"{'training':<34}seed{2 * columns}  escapes  back  searches  grads")
    left, shares, did = [], [], []
    for training in trainings(only, seeds):
        both, text = training.both(), ""
        left.append([each.left(training.level) for each in both])
        shares.append([training.share(each.end) for each in both])
        state = both[1].state
        counts = state.num_escapes, state.num_rollbacks, state.num_probes, state.num_gradients
        did.append([int(count) for count in counts])
        for at, share in zip(left[-1], shares[-1], strict=True):
            text += f"{'never':>7}{'':8}" if at is None else f"{at[0]:7,}{at[1]:8,}"
            text += f"{share:7.2f} "
        text += "{:9}{:6}{:10}{:7}".format(*did[-1])
        print(f"{training.row.name:<36}{training.seed:>2}{text}", flush=True)
    if not left:
        return
    for name, times, ends in zip(
        ("plain", "hooked"), zip(*left, strict=True), np.array(shares).T, strict=True
    ):
        found = [each for each in times if each is not None]
        early = sum(step <= STUCK for step, _ in found)
        cost = np.median([cost for _, cost in found]) if found else np.nan
        print(
            f"{name}: {len(found)} of {len(left)} left, {early} within {STUCK} steps; those after {cost:.0f} "
            f"gradients in the median; share {np.median(ends):.3f} in the median, {ends.min():.3f} at least, "
            f"{np.sum(ends > 0.9)} above 0.9"
        )
    escapes, back, searches, spent = np.array(did).T
    print(
        f"the hook: {escapes.sum()} escapes, {back.sum()} taken back, {searches.sum()} searches; "
        f"gradients a run {np.median(spent):.0f} in the median, {spent.max()} at most"
    )


def figure(path: str, names: tuple[str, ...]) -> None:
    """Draw the loss over steps of some trainings, plain and hooked, and of the well-started ones."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(1, len(names), figsize=(3 * len(names), 2.8), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        training = next(trainings(name, 1))
        plain, hooked = training.both()
        well = training.run("plain", training.row.optimizer, training.good)
        steps = LOOK * np.arange(1, STEPS // LOOK + 1)
        axis.plot(steps, well.losses, label="started well", color="#b0b0b0", linewidth=1.0)
        axis.plot(steps, plain.losses, label="stuck, left alone", color="#b3261e", linewidth=1.6)
        axis.plot(steps, hooked.losses, label="stuck, with the hook", color="#007f5f", linewidth=1.6)
        axis.set(title=name, xlabel="step", ylim=(0, 1.15 * training.plateau), xlim=(0, STEPS))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("loss on all data")
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    drawing.savefig(path, dpi=120)


# What else is done at a plateau.


def perturbed(inner: Any, slope: float, radius: float = 0.1, wait: int = 50) -> Any:
    """Perturbed descent (Jin et al. 2017), around any optimiser: at a small gradient, a random step."""

    def update(gradient: Any, state: Any, params: Any = None, **_: Any) -> Any:
        own, step = state
        updates, own = inner.update(gradient, own, params)
        due = (optax.tree.norm(gradient) <= slope) & (step % wait == wait - 1)
        drawn = optax.tree.random_like(jax.random.fold_in(jax.random.key(2), step), updates)
        moves = optax.tree.scale(jnp.where(due, radius / optax.tree.norm(drawn), 0.0), drawn)
        return optax.tree.add(updates, moves), (own, step + 1)

    init = lambda params: (inner.init(params), jnp.asarray(0))  # noqa: E731
    return optax.GradientTransformationExtraArgs(init, update)


def sharpness_aware(inner: Any, loss: Callable[..., Any], rho: float = 0.05) -> Any:
    """Sharpness-aware minimisation (Foret et al. 2021): the gradient a step uphill; two gradients a step."""

    def update(gradient: Any, state: Any, params: Any, *, batch: Any, **_: Any) -> Any:
        uphill = optax.tree.add_scale(params, rho / (optax.tree.norm(gradient) + 1e-12), gradient)
        return inner.update(jax.grad(loss)(uphill, batch), state, params)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def rivals(training: Training, gradients: int) -> dict[str, Trained]:
    """What else is done at a plateau, each with that many gradients in all."""
    inner, loss, bad = training.row.optimizer, training.loss, training.bad
    part = minibatch(training.data, training.row.batch, jax.random.key(3))
    slope = 2 * float(optax.tree.norm(jax.grad(loss)(bad, part)))
    settled = training.run("plain", inner, bad, SETTLED).params
    fresh = training.row.renew(settled, training.seed + 1000)
    drawn = training.run("plain", inner, fresh, gradients - SETTLED)
    uphill = training.run("SAM", sharpness_aware(inner, loss), bad, gradients // 2)
    steps = LOOK * np.arange(1, len(uphill.losses) + 1)
    # Normal noise on every gradient, whose variance falls like √t (Neelakantan et al. 2015).
    noisy = optax.chain(optax.add_noise(0.1**2, 0.55, 0), inner)
    return {
        "plain": training.run("plain", inner, bad, gradients),
        "perturbed": training.run(f"perturbed {slope}", perturbed(inner, slope), bad, gradients),
        "Adam": training.run("Adam", optax.adam(1e-3), bad, gradients),
        "drawn again": drawn._replace(extra=drawn.extra + SETTLED),
        "SAM": uphill._replace(extra=steps),
        "noise": training.run("noise", noisy, bad, gradients),
    }


def compare(only: str, seeds: int) -> None:
    """The hook beside its rivals: gradients until left, and share of the well-started run's gain."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for training in trainings(only, seeds):
        _, hooked = training.both()
        every = {"hook": hooked} | rivals(training, STEPS + int(hooked.state.num_gradients))
        text = []
        for name, each in every.items():
            left, share = each.left(training.level), training.share(each.end)
            scores.setdefault(name, []).append((np.inf if left is None else left[1], share))
            text.append(f"{name} {'never' if left is None else format(left[1], ',')} {share:.2f}")
        print(f"{training.row.name:<36}{training.seed:>2}  {', '.join(text)}", flush=True)
    ours = np.array(scores.get("hook", []))
    for name, rows in scores.items():
        costs, shares = np.array(rows).T
        more = shares - ours[:, 1]
        print(
            f"{name:<12} {np.sum(np.isfinite(costs))} of {len(rows)} left, after {np.median(costs):.0f} "
            f"gradients in the median of all; share {np.median(shares):.3f} in the median, "
            f"{np.sum(shares > 0.9)} above 0.9; ends lower than the hook in {np.sum(more > 0.01)}, "
            f"higher in {np.sum(more < -0.01)}"
        )


def escapes(only: str, seeds: int, batches: int = 16) -> None:
    """`hp.escape` from where plain training has settled, with all data at once and in batches."""
    total: dict[str, list[bool]] = {}
    for training in trainings(only, seeds):
        settled = training.run("plain", training.row.optimizer, training.bad, SETTLED).params
        split = list(zip(*(jnp.array_split(leaf, batches) for leaf in training.data), strict=True))
        for name, data in (("all data", training.data), (f"{batches} batches", split)):
            move = hp.escape(training.loss, settled, data)
            total.setdefault(name, []).append(move.status == "escaped")
            print(
                f"{training.row.name:<36}{training.seed:>2}  {name}: {move.point.label}, {move.status}, loss "
                f"{move.loss_before:.4f} → {move.loss_after:.4f}, gain {move.gain:.4f}, of the slope "
                f"{move.gain_of_slope:.4f}; {move.num_hvps} products, {move.num_evaluations} evaluations",
                flush=True,
            )
    for name, found in total.items():
        print(f"{name}: {sum(found)} of {len(found)} escaped")


LAST = {"last": optax.sgd(0.05, momentum=0.9), "rest": optax.adam(1e-3)}
FALLING = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))
OPTIMIZERS = {
    "descent": optax.sgd(0.2),
    "momentum": momentum(0.05),
    "Nesterov": optax.sgd(0.05, momentum=0.9, nesterov=True),
    "Adam": optax.adam(1e-3),
    "AdamW": optax.adamw(1e-3),
    "RMSProp": optax.rmsprop(1e-3),
    "Adagrad": optax.adagrad(0.05),
    "schedule-free": optax.contrib.schedule_free_adamw(3e-3),
    "clipped, with a schedule": optax.chain(optax.clip_by_global_norm(1.0), FALLING),
    "two parts": optax.multi_transform(LAST, lambda params: ["rest"] * (len(params) - 1) + ["last"]),
}


def moments(seeds: int) -> None:
    """What becomes of the moments at an escape: gradients until it is left, and the share at the end."""
    for name, optimizer in OPTIMIZERS.items():
        programs: dict[str, Any] = {}
        cells = {how: [] for how in MOMENTS}
        for seed in range(seeds):
            training = Training(dataclasses.replace(ROWS[0], optimizer=optimizer), seed, programs)
            training.both()
            for how, found in cells.items():
                hook = escape_saddles(optimizer, training.loss, moments=how)
                run = training.run(how, hook, training.bad)
                left = run.left(training.plateau - 0.9 * (training.plateau - training.well))
                found.append((np.inf if left is None else left[1], training.share(run.end)))
        medians = {how: np.median(found, axis=0) for how, found in cells.items()}
        text = ", ".join(f"{how} {cost:.0f} {share:.3f}" for how, (cost, share) in medians.items())
        print(f"{name:<28}{text}", flush=True)


def main() -> int:
    """Measure and print."""
    parser = command_line(__doc__, seeds=3, only="trainings")
    parser.add_argument("--compare", action="store_true", help="beside what else is done, at equal gradients")
    parser.add_argument("--escape", action="store_true", help="hp.escape from the settled point")
    parser.add_argument("--moments", action="store_true", help="what becomes of the optimiser's moments")
    parser.add_argument("--figure", default="", help="file to draw four of the trainings into, instead")
    options = parser.parse_args()
    if options.figure:
        figure(options.figure, DRAWN)
    elif options.moments:
        moments(options.seeds)
    else:
        measure = compare if options.compare else escapes if options.escape else table
        measure(options.only, options.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
