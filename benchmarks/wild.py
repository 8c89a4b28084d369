"""Faulty training programs that people asked about, each beside its repair: what is told first, and second.

Run as `python -m benchmarks.wild` (or `make bench-wild`); with `--twins` the repaired programs.  These are 23
of the 52 programs that Cao et al. 2022 (DeepFD, ICSE, arXiv:2205.01938) collected, rebuilt small from what is
known of their faults, by their number there.  Each is trained as its author did and given to `hp.diagnose`
with what its author would pass; `PROGRAMS` holds the causes and codes that name one of its faults, written
down before the first count.  Published tools name a right fault in 27 (DeepFD), 14 (UMLAUT), 10 (AutoTrainer)
and 7 (DeepLocalize) of the 52.

On a repaired program a finding is idle where doing what it proposes, from the start, with the same seed, ends
less than 5 % lower (in the test loss, for a remedy of overfitting), or where it names a fault of the program.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets

import hessian_probe as hp
from benchmarks.report import command_line

# A proposal helps where it ends below this share of what went on unchanged.
HELPS = 0.95
COMPILED = "/jax/core/compile/backend_compile_duration"
Pair = tuple[np.ndarray, np.ndarray]


# Data: inputs and targets as their source gives them.


def digits(_: np.random.Generator) -> Pair:
    """Images of 64 pixels from 0 to 16, and ten classes."""
    return datasets.load_digits(return_X_y=True)


def images(rng: np.random.Generator) -> Pair:
    """The same as images of one channel from 0 to 1."""
    x, y = digits(rng)
    return x.reshape(-1, 8, 8, 1) / 16, y


def wine(_: np.random.Generator) -> Pair:
    """A table of 13 columns of different size, and three classes."""
    return datasets.load_wine(return_X_y=True)


def iris(_: np.random.Generator) -> Pair:
    """A table of four lengths in cm, and three classes."""
    return datasets.load_iris(return_X_y=True)


def cancer(_: np.random.Generator) -> Pair:
    """A table of 30 columns of very different size, and two classes."""
    return datasets.load_breast_cancer(return_X_y=True)


def diabetes(_: np.random.Generator) -> Pair:
    """A table of ten columns, and a number from 25 to 346."""
    return datasets.load_diabetes(return_X_y=True)


def xor(_: np.random.Generator) -> Pair:
    """The table of exclusive or."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    return x, x[:, 0] != x[:, 1]


def waves(rng: np.random.Generator) -> Pair:
    """A smooth function of four inputs, from -1 to 1."""
    x = rng.standard_normal((400, 4))
    return x, np.sin(x[:, 0] + x[:, 1] * x[:, 2])


def plane(rng: np.random.Generator) -> Pair:
    """A linear function of eight inputs from 0 to 10."""
    x = rng.uniform(0, 10, (400, 8))
    return x, x @ np.linspace(-1, 1, 8) + 5 + rng.standard_normal(400)


def line(rng: np.random.Generator) -> Pair:
    """A line that begins at 12."""
    x = rng.uniform(0, 3, (300, 1))
    return x, 5 * x[:, 0] + 12 + 0.3 * rng.standard_normal(300)


def parabola(rng: np.random.Generator) -> Pair:
    """Squares of the numbers up to 1,000."""
    x = rng.uniform(0, 1000, (400, 1))
    return x, x[:, 0] ** 2


def volumes(rng: np.random.Generator) -> Pair:
    """Noisy volumes with a bright block or a bright frame."""
    y = np.arange(160) % 2
    x = 0.7 * rng.standard_normal((160, 5, 5, 5, 1))
    x[y == 1, 1:4, 1:4, 1:4] += 0.5
    x[y == 0, :, :2] += 0.5
    return x, y


def as_given(a: np.ndarray) -> np.ndarray:
    """Nothing."""
    return a


def standardised(a: np.ndarray) -> np.ndarray:
    """Each column with mean 0 and deviation 1."""
    return (a - a.mean(0)) / np.where(a.std(0) > 0, a.std(0), 1)


def over(size: float) -> Callable[[np.ndarray], np.ndarray]:
    """Division by a number."""
    return lambda a: a / size


def column(y: np.ndarray) -> np.ndarray:
    """A target for one output."""
    return np.asarray(y, np.float32)[:, None]


def one_hot(y: np.ndarray) -> np.ndarray:
    """A row for each class."""
    return np.eye(int(y.max()) + 1, dtype=np.float32)[y]


# Losses of outputs.


def squared(out: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.mean((out - y) ** 2)


def of_shares(out: jax.Array, y: jax.Array) -> jax.Array:
    """Binary cross-entropy of probabilities."""
    p = jnp.clip(out, 1e-7, 1 - 1e-7)
    return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))


def of_logits(out: jax.Array, y: jax.Array) -> jax.Array:
    """Binary cross-entropy of logits."""
    return jnp.mean(optax.sigmoid_binary_cross_entropy(out, y))


def categorical(out: jax.Array, y: jax.Array) -> jax.Array:
    """Categorical cross-entropy of what is divided by its sum."""
    p = out / (out.sum(-1, keepdims=True) + 1e-7)
    return -jnp.mean(jnp.sum(y * jnp.log(jnp.clip(p, 1e-7, 1 - 1e-7)), -1))


def of_labels(out: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of logits and whole labels."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(out, y.astype(int).ravel()))


def of_rows(out: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of logits and rows."""
    return jnp.mean(optax.softmax_cross_entropy(out, y))


# Programs


def linear(z: jax.Array) -> jax.Array:
    """No activation."""
    return z


def momentum(rate: Any) -> optax.GradientTransformation:
    """Heavy ball."""
    return optax.sgd(rate, 0.9)


class Program(NamedTuple):
    """A training program; layers are widths, those of a convolution as text."""

    data: Callable[[np.random.Generator], Pair]
    layers: tuple[Any, ...]
    loss: Callable[..., jax.Array]
    x: Callable[[np.ndarray], np.ndarray] = as_given
    y: Callable[[np.ndarray], np.ndarray] = as_given
    hidden: Callable[..., Any] = jax.nn.relu
    last: Callable[..., Any] = linear
    optimizer: Callable[..., Any] = optax.adam
    rate: Any = 1e-3
    batch: int = 32
    steps: int = 400
    deviation: float = 0.0  # of the first weights; 0 for Glorot's
    by_class: bool = False
    batch_norm: bool = False


IMAGE = Program(images, ("4", "8", 16, 10), of_labels)
MLP = Program(digits, (32, 10), of_rows, over(16), one_hot)
TABLE = Program(cancer, (16, 1), of_logits, standardised, column, rate=1e-2)
REAL = Program(diabetes, (16, 1), squared, standardised, column)
DEEP = Program(digits, (64,) * 7 + (10,), of_labels, over(16), hidden=jax.nn.relu, steps=600)
# By number: the names that are right, the program, what its repair changes.
PROGRAMS: dict[int, tuple[str, Program, dict[str, Any]]] = {
    1: ("squared_error_of_classes divergence oscillation",
        Program(digits, (30, 10), squared, over(16), one_hot, linear, linear, optax.sgd, 3.0, 10,
                deviation=1.0),
        {"loss": of_rows, "hidden": jax.nn.sigmoid, "rate": 0.5, "deviation": 0.0, "steps": 800}),
    3: ("slow", Program(xor, (8, 1), squared, y=column, hidden=jnp.tanh, last=jax.nn.sigmoid,
                        optimizer=optax.sgd, rate=0.05, batch=4, steps=1000), {"rate": 0.1, "steps": 10_000}),
    5: ("targets_out_of_reach", Program(waves, (32, 32, 1), squared, y=column, last=jax.nn.relu),
        {"last": jnp.tanh}),
    7: ("constant_loss", REAL._replace(y=lambda y: column(standardised(y)), last=jax.nn.softmax),
        {"last": linear}),
    9: ("slow optimization", IMAGE._replace(hidden=jnp.tanh, optimizer=momentum, deviation=0.05, steps=200),
        {"optimizer": optax.adam, "steps": 400}),
    11: ("input_scale logits_as_probabilities slow",
         TABLE._replace(x=as_given, loss=of_shares, rate=1e-4),
         {"x": standardised, "last": jax.nn.sigmoid, "rate": 0.1}),
    13: ("divergence oscillation", Program(plane, (16, 1), squared, y=column, optimizer=optax.sgd, rate=0.1),
         {"rate": 1e-4, "steps": 800}),
    15: ("labels_scaled",
         Program(digits, (32, 10), of_labels, lambda x: np.round(x * 255 / 16), lambda y: column(y / 255)),
         {"x": over(16), "y": column}),
    17: ("input_scale target_scale", Program(parabola, (32, 1), squared, y=column),
         {"x": standardised, "y": lambda y: column(standardised(y))}),
    19: ("squared_error_of_classes input_scale",
         Program(iris, (8, 3), squared, y=one_hot, last=jax.nn.softmax, optimizer=optax.sgd, rate=1e-2,
                 steps=200),
         {"batch_norm": True, "last": jax.nn.sigmoid, "loss": of_shares, "rate": 0.1}),
    21: ("binary_loss_beyond_targets",
         Program(wine, (16, 1), of_shares, standardised, column, last=jax.nn.sigmoid, rate=1e-2),
         {"layers": (16, 3), "y": one_hot, "last": jax.nn.softmax, "loss": categorical}),
    23: ("input_scale logits_as_probabilities rectified_logits",
         TABLE._replace(x=as_given, last=jax.nn.relu, loss=of_shares),
         {"x": standardised, "last": jax.nn.sigmoid}),
    25: ("logits_as_probabilities rectified_logits",
         MLP._replace(last=jax.nn.relu, loss=categorical), {"last": jax.nn.softmax}),
    27: ("slow", MLP._replace(optimizer=optax.sgd, rate=1e-2, steps=225), {"steps": 6000, "rate": 0.1}),
    29: ("constant_loss", TABLE._replace(loss=of_rows), {"loss": of_logits}),
    31: ("slow optimization", DEEP._replace(optimizer=optax.sgd, rate=1e-2, steps=150),
         {"optimizer": optax.adam, "rate": 1e-4, "steps": 2000}),
    33: ("one_class_batches slow",
         Program(volumes, ("4", 2), of_labels, optimizer=optax.sgd, batch=16, steps=200, by_class=True),
         {"by_class": False, "rate": 1e-2}),
    37: ("binary_loss_beyond_targets slow noise",
         REAL._replace(loss=of_shares, y=lambda y: column(y / 100), batch=1, steps=353),
         {"loss": squared, "batch": 64, "steps": 600}),
    39: ("slow optimization",
         Program(iris, (8, 3), of_rows, standardised, one_hot, optimizer=optax.rmsprop, steps=40),
         {"optimizer": optax.adam, "rate": 1e-2, "steps": 400}),
    41: ("constant_loss", TABLE._replace(last=jax.nn.softmax, loss=of_shares), {"last": jax.nn.sigmoid}),
    45: ("slow", Program(line, (1,), squared, y=column, optimizer=optax.rmsprop),
         {"rate": 0.1}),
    47: ("slow", TABLE._replace(rate=1e-3, steps=28), {"steps": 600}),
    51: ("dead_units", IMAGE._replace(optimizer=momentum, rate=0.3, steps=300),
         {"hidden": jax.nn.elu, "last": jax.nn.sigmoid, "loss": of_shares, "y": one_hot}),
}  # fmt: skip


def start(program: Program, shape: tuple[int, ...], rng: np.random.Generator) -> list[dict[str, jax.Array]]:
    """First weights, and biases of zero."""
    params, at = [], shape
    for width in program.layers:
        kernel = (3,) * (len(at) - 1) if isinstance(width, str) else ()
        at = (*at[:-1], int(width)) if kernel else (width,)
        given = shape[-1] if kernel else int(np.prod(shape))
        size = int(np.prod(kernel)) * given
        spread = program.deviation or np.sqrt(2 / (size + at[-1]))
        params.append({"w": spread * rng.standard_normal((*kernel, given, at[-1])), "b": np.zeros(at[-1])})
        shape = at
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def model(program: Program) -> Callable[..., jax.Array]:
    """The program's outputs."""

    def apply(params: Any, x: jax.Array) -> jax.Array:
        if program.batch_norm:
            x = (x - x.mean(0)) / (x.std(0) + 1e-3)
        for number, layer in enumerate(params):
            if layer["w"].ndim > 2:
                spaces = "xyz"[: x.ndim - 2]
                names = (f"N{spaces}C", f"{spaces}IO", f"N{spaces}C")
                x = jax.lax.conv_general_dilated(x, layer["w"], (1,) * len(spaces), "SAME",
                                                 dimension_numbers=names) + layer["b"]  # fmt: skip
            else:
                x = x.reshape(len(x), -1) @ layer["w"] + layer["b"]
            x = (program.last if number == len(params) - 1 else program.hidden)(x)
        return x

    return apply


class Trained(NamedTuple):
    """A trained program with what its author has at hand."""

    loss: Callable[..., jax.Array]
    params: Any
    given: dict[str, Any]
    end: float
    test_loss: float
    lowest_test_loss: float


def trained(program: Program, seed: int) -> Trained:
    """Train as the program says."""
    rng = np.random.default_rng(seed)
    x, y = program.data(rng)
    rows = rng.permutation(len(x))[:400] if len(x) > 4 else np.arange(len(x))
    x, y = program.x(x)[rows].astype(np.float32), program.y(y)[rows]
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int32)
    half = 4 * len(x) // 5 if len(x) > 4 else len(x)
    train, test = (x[:half], y[:half]), (x[half:], y[half:])
    if program.by_class:
        rows = np.argsort(train[1], kind="stable")
        train = (train[0][rows], train[1][rows])
    apply, optimizer = model(program), program.optimizer(program.rate)
    params = start(program, x.shape[1:], rng)

    def loss(at: Any, batch: Any) -> jax.Array:
        return program.loss(apply(at, batch[0]), batch[1])

    size = min(program.batch, half)
    cut, epochs = half - half % size, program.steps // (half // size) + 1
    order = [np.arange(cut) if program.by_class else rng.permutation(half)[:cut] for _ in range(epochs)]
    index = np.concatenate(order).reshape(-1, size)[: program.steps]

    @jax.jit
    def run(carry: Any, index: Any, train: Any, test: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, state = carry
            value, slope = jax.value_and_grad(loss)(at, jax.tree.map(lambda a: a[rows], train))
            updates, state = optimizer.update(slope, state, at)
            unseen = loss(at, test) if half < len(x) else jnp.nan
            return (optax.apply_updates(at, updates), state), (value, unseen)

        return jax.lax.scan(step, carry, index)

    (params, state), (values, unseen) = run((params, optimizer.init(params)), index, train, test)
    batches = [tuple(a[i : i + size] for a in train) for i in range(0, cut, size)]
    given = {"data": batches if len(batches) > 1 else batches[0], "apply": apply, "optimizer": optimizer}
    given |= {"opt_state": state, "history": {"loss": np.asarray(values)}}
    if half < len(x):
        given["test_data"] = test
    end, there = (float(jax.jit(loss)(params, part)) if len(part[0]) else np.nan for part in (train, test))
    return Trained(loss, params, given, end, there, float(np.min(unseen)))


def acted(program: Program, finding: hp.Finding) -> Program | None:
    """The program with the change that a finding proposes; None where it proposes none that is tried."""
    decayed = optax.linear_schedule(program.rate, 0.0, program.steps)
    widths = tuple(str(4 * int(n)) if isinstance(n, str) else 4 * n for n in program.layers[:-1])
    change: dict[str, dict[str, Any]] = {
        "multiply_rate": {"rate": program.rate * (finding.factor or 1.0)},
        "roll_back": {"rate": program.rate / 10},
        "decay_rate": {"rate": decayed},
        "train_on": {"steps": 5 * program.steps},
        "standardise_inputs": {"x": lambda x: standardised(program.x(x))},
        "standardise_targets": {"y": lambda y: standardised(program.y(y))},
        "larger_model": {"layers": (*widths, program.layers[-1])},
        "reinitialise": {"deviation": 0.0, "rate": program.rate / 3},
        "regularise": {"optimizer": lambda rate: optax.adamw(rate, weight_decay=0.1)},
        "adam": {"optimizer": optax.adam, "rate": 1e-2},
    }  # fmt: skip
    remedy = "adam" if finding.remedy in ("adam_from_reinit", "precondition") else finding.remedy
    return program._replace(**change[remedy]) if remedy in change else None


def helps(program: Program, seed: int, before: Trained, finding: hp.Finding) -> bool:
    """Whether doing what a finding proposes ends lower; a program that is well has nothing to do."""
    if finding.cause in ("healthy", "nothing_found"):
        return True
    changed = None if finding.cause == "program" else acted(program, finding)
    if changed is None:
        return False
    after = trained(changed, seed)
    if finding.remedy == "regularise":
        return after.lowest_test_loss < HELPS * before.test_loss
    return after.end < HELPS * before.end


def main() -> int:
    """Diagnose, print a line for each, and count."""
    parser = command_line(__doc__, seeds=1, only="programs")
    parser.add_argument(
        "--twins", action="store_true", help="the repaired programs in place of the faulty ones"
    )
    options = parser.parse_args()
    compiled: list[float] = []

    def watch(event: str, duration_secs: float, **_: str | int) -> None:
        if event == COMPILED:
            compiled.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(watch)
    first, two, of_all, idle = 0, 0, 0, 0
    for number, (names, faulty, repair) in PROGRAMS.items():
        program = faulty._replace(**repair) if options.twins else faulty
        for seed in range(options.seeds if options.only in ("", str(number)) else 0):
            run = trained(program, seed)
            count, began = len(compiled), time.perf_counter()
            told = hp.diagnose(run.loss, run.params, **run.given).findings
            took, count, of_all = time.perf_counter() - began, len(compiled) - count, of_all + 1
            if options.twins:
                useful = all(helps(program, seed, run, finding) for finding in told[:2])
                mark, idle = "." if useful else "idle", idle + (not useful)
            else:
                right = [bool({f.cause, f.reason} & set(names.split())) for f in told[:2]]
                mark = "first" if right[0] else "second" if any(right) else "missed"
                first, two = first + right[0], two + any(right)
            said = ", ".join(f"{f.cause} {f.reason} {f.confidence:.2f}" for f in told[:2])
            print(f"{number:2d} {mark:6s} loss {run.end:8.3g} {took:4.0f} s {count:4d} programs  {said}",
                  flush=True)  # fmt: skip
    if options.twins:
        print(f"repaired programs with an idle finding among two: {idle} of {of_all}")
    else:
        print(f"a right fault first in {first} of {of_all}, among two in {two}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
