"""Sharpness against the gap between training and test loss; prints three tables.

Run as `python -m benchmarks.sharpness` (or `make bench-sharpness`).

First table: networks 64-32-10 with ReLU units on 500 of scikit-learn's digits, trained by plain stochastic
gradient descent with three batch sizes and three learning rates until the training loss is 0.01 (as Jiang et
al. 2020, arXiv:1912.02178): measures of sharpness, loss and error on the other 1,297 digits.

Second table: rank correlation (Spearman) of each measure with the test loss less the training loss, and with
the test error.  "Over settings": among the nine settings of one seed, mean over seeds.  "Over seeds": among
the seeds of one setting, mean over settings.  Intervals are 95 %, by Student's t.

Third table: the same networks with the first layer multiplied by α and the second by 1/α.
"""

import itertools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr, t

import hessian_probe as hp
from benchmarks.report import command_line
from hessian_probe.problems.networks import digits, mlp_apply, mlp_init, mlp_loss

WIDTHS = (64, 32, 10)
TRAINED_ON = 500
BATCHES = (8, 50, 500)
# From a rate that is safe for all batches to one near the most that the full batch can stand.
RATES = (0.03, 0.1, 0.3)
TARGET = 0.01
# The loss is looked at whenever steps times rate have grown by this much: within 1 % of the target.
LOOK = 5.0
MOST_LOOKS = 300
NAMES = ("lambda_max", "trace", "keskar", "filter_normalised")
NAMES += ("adaptive_lambda_max", "adaptive_trace", "adaptive_maximum")
LOSS = mlp_loss("relu", "cross_entropy")


class Run(NamedTuple):
    """One trained network."""

    batch: int
    rate: float
    seed: int  # draws the split of the data, the weights and the batches
    steps: int  # steps taken
    train: float
    test: float
    error: float  # share of the test digits that are wrong
    found: hp.Sharpness


def split(seed: int) -> tuple[Any, Any]:
    """Training and test data."""
    inputs, labels = digits(one_hot=False)
    order = np.random.default_rng(seed).permutation(len(labels))
    parts = order[:TRAINED_ON], order[TRAINED_ON:]
    train, test = ((jnp.asarray(inputs[p], jnp.float32), jnp.asarray(labels[p])) for p in parts)
    return train, test


@jax.jit
def chunk(params: Any, data: Any, rows: Any, rate: Any) -> Any:
    """Steps of gradient descent for all seeds at once; the loss on all their training data after them."""

    def one(params: Any, data: Any, rows: Any) -> Any:
        def step(at: Any, row: Any) -> Any:
            gradient = jax.grad(LOSS)(at, jax.tree.map(lambda leaf: leaf[row], data))
            return jax.tree.map(lambda a, g: a - rate * g, at, gradient), None

        end, _ = jax.lax.scan(step, params, rows)
        return end, LOSS(end, data)

    return jax.vmap(one)(params, data, rows)


def train(batch: int, rate: float, seeds: range) -> tuple[Any, ...]:
    """Train until the loss is at the target; for each seed the parameters and the steps taken."""
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    params = stack([jax.tree.map(jnp.float32, mlp_init(WIDTHS, seed=seed)) for seed in seeds])
    data = stack([split(seed)[0] for seed in seeds])
    rngs = [np.random.default_rng([seed, batch]) for seed in seeds]
    ends: dict[int, tuple[Any, int]] = {}
    length = round(LOOK / rate)
    passes = -(-length * batch // TRAINED_ON)
    for look in range(1, MOST_LOOKS + 1):
        orders = [np.concatenate([rng.permutation(TRAINED_ON) for _ in range(passes)]) for rng in rngs]
        rows = np.stack([order[: length * batch].reshape(length, batch) for order in orders])
        params, losses = chunk(params, data, jnp.asarray(rows), rate)
        for index in np.flatnonzero(np.asarray(losses) <= TARGET):
            ends.setdefault(int(index), (jax.tree.map(lambda leaf, i=index: leaf[i], params), look * length))
        if len(ends) == len(seeds):
            break
    else:
        raise RuntimeError(f"batch {batch}, rate {rate}: {len(ends)} of {len(seeds)} reached {TARGET}")
    return tuple(zip(*(ends[i] for i in range(len(seeds))), strict=True))


def measured(batch: int, rate: float, seeds: range) -> list[Run]:
    """Train all seeds of a setting and measure them."""
    out = []
    for seed, params, steps in zip(seeds, *train(batch, rate, seeds), strict=True):
        data, test = split(seed)
        guessed = np.argmax(np.asarray(mlp_apply(params, test[0], activation="relu")), axis=1)
        found = hp.sharpness(LOSS, params, data)
        wrong = float(np.mean(guessed != np.asarray(test[1])))
        out.append(Run(batch, rate, seed, steps, found.loss, float(LOSS(params, test)), wrong, found))
    return out


def settings_table(runs: list[Run]) -> None:
    """Print the mean of each setting."""
    print(f"{'batch':>6s}{'rate':>7s}{'steps':>8s}{'train':>8s}{'test':>8s}{'wrong':>8s}  ", *NAMES)
    for batch, rate in itertools.product(BATCHES, RATES):
        own = [run for run in runs if (run.batch, run.rate) == (batch, rate)]
        mean = np.mean([[r.steps, r.train, r.test, r.error] for r in own], axis=0)
        print(f"{batch:6d}{rate:7.2f}{mean[0]:8.0f}{mean[1]:8.4f}{mean[2]:8.4f}{mean[3]:8.2%}  ", end=" ")
        values = np.mean([[r.found[name].value for name in NAMES] for r in own], axis=0)
        print(*(f"{value:{len(name)}.4g}" for name, value in zip(NAMES, values, strict=True)), flush=True)


def interval(values: list[float]) -> str:
    """Mean and 95 % interval by Student's t."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    half = t.ppf(0.975, len(values) - 1) * error
    return f"{mean:+.2f} ({max(mean - half, -1):+.2f} to {min(mean + half, 1):+.2f})"


def correlations(runs: list[Run], name: str, outcome: Any, by: str) -> list[float]:
    """Rank correlations of a measure with an outcome within groups of equal seed or setting."""
    key = (lambda r: r.seed) if by == "seed" else (lambda r: (r.batch, r.rate))
    groups = [list(own) for _, own in itertools.groupby(sorted(runs, key=key), key=key)]
    values = ([[r.found[name].value, outcome(r)] for r in own] for own in groups)
    return [float(spearmanr(*zip(*pairs, strict=True)).statistic) for pairs in values]


def correlation_table(runs: list[Run]) -> None:
    """Print the rank correlations with the gap of the loss, and with the test error."""
    gap, error = (lambda r: r.test - r.train), (lambda r: r.error)
    heads = ("gap, over settings", "gap, over seeds", "error, over settings")
    print(f"\n{'rank correlation with':22s}{''.join(f'{head:>26s}' for head in heads)}   invariant under")
    for name in NAMES:
        columns = ((gap, "seed"), (gap, "setting"), (error, "seed"))
        cells = "".join(f"{interval(correlations(runs, name, *column)):>26s}" for column in columns)
        print(f"{name:22s}{cells}   {runs[0].found[name].invariance}")


def rescaling_table(batch: int, rate: float) -> None:
    """Print what re-scaling of layers does to one network."""
    params, (data, test) = train(batch, rate, range(1))[0][0], split(0)
    print(f"\n{'α':>5s}{'test loss':>12s}  ", *NAMES)
    for factor in (0.2, 1.0, 5.0, 25.0):
        first, second = params
        turned = {"weight": second["weight"] / factor, "bias": second["bias"]}
        scaled = ({name: factor * leaf for name, leaf in first.items()}, turned)
        found = hp.sharpness(LOSS, scaled, data)
        print(f"{factor:5g}{float(LOSS(scaled, test)):12.6f}  ", end=" ")
        print(*(f"{found[name].value:{len(name)}.4g}" for name in NAMES))


def main() -> int:
    """Measure and print."""
    options = command_line(__doc__, seeds=12).parse_args()
    runs: list[Run] = []
    for batch, rate in itertools.product(BATCHES, RATES):
        runs += measured(batch, rate, range(options.seeds))
        print(f"  trained: batch {batch}, rate {rate}", file=sys.stderr, flush=True)
    settings_table(runs)
    correlation_table(runs)
    rescaling_table(BATCHES[0], RATES[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
