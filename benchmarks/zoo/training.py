"""Synthetic failures, the training runs that they make, and what their recipes share."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.zoo.layers import Model, Params
from benchmarks.zoo.losses import Objective, cross_entropy, rebuilt, squared


@dataclasses.dataclass
class Run:
    """A training run as a user would hand it over."""

    loss: Callable[..., Any]
    apply: Callable[..., Any] | None
    params: Params
    data: Any
    test_data: Any
    optimizer: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    start: Params
    baseline: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Keywords of `hp.diagnose`."""
        names = ("data", "test_data", "history", "optimizer", "opt_state", "apply", "baseline")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Setup:
    """What a failure's run is made from."""

    seed: int  # of samples, start and order of batches
    cured: bool = False  # leave the trouble out
    rate: float = 1.0  # multiplies the learning rate (rounds 5 to 9)

    def pick(self, failing: Any, cured: Any) -> Any:
        """What differs between the failing run and the one without the trouble."""
        return cured if self.cured else failing


@dataclasses.dataclass(frozen=True)
class Failure:
    """One synthetic failure, or a healthy run: a row of the tables."""

    round: int  # of the counts; `benchmarks/zoo/__init__.py` says what each is
    commit: str  # at which it was first counted
    name: str  # what was done
    cause: str  # what `hp.diagnose` should name first
    also_true: str  # other causes that are true of it too, separated by spaces
    recipe: Callable[[Setup], Run]  # model, samples, optimiser, steps, change
    curable: bool = False  # acting on the first proposal should lower the training loss

    def make(self, seed: int, cured: bool = False, rate: float = 1.0) -> Run:
        """The run at a seed; without the trouble, or at a multiple of the learning rate (see `Setup`)."""
        return self.recipe(Setup(seed, cured, rate))


def rows_of(number: int, commit: str) -> tuple[Callable[..., Failure], ...]:
    """What makes the rows of a round: failures, failures that are curable, and healthy runs."""
    row = functools.partial(Failure, number, commit)
    healthy = lambda name, recipe: row(f"healthy: {name}", "healthy", "", recipe)  # noqa: E731
    return row, functools.partial(row, curable=True), healthy


def fit(
    setup: Setup,  # whose seed draws the start and the batches
    model: Model | Callable[[Any], Model],  # or a function of the training inputs that gives one
    samples: tuple[Any, Any] | Callable[[int], tuple[Any, Any]],  # training and test data, or a seed's
    optimizer: Any,  # of optax, or a function of the training inputs that gives one
    steps: int,
    *,
    batch: int | None = None,  # samples per step
    loss: Objective | None = None,  # of an apply
    change: Callable[[Params], Params] = lambda params: params,  # of the start
    start: Params = None,  # else it is drawn
    without: tuple[str, ...] = (),  # what of the run is not handed over
) -> Run:
    """Train, on the whole data or on shuffled batches of a size; the usual loss depends on the targets."""
    data, test_data = samples(setup.seed) if callable(samples) else samples
    init, apply = model(data[0]) if callable(model) else model
    optimizer = optimizer if hasattr(optimizer, "init") else optimizer(data[0])
    labels = np.issubdtype(data[1].dtype, np.integer)
    usual = rebuilt if not isinstance(data, tuple) else cross_entropy if labels else squared
    value = (usual if loss is None else loss)(apply)
    first = start if init is None or start is not None else change(init(setup.seed))
    index = order(len(jax.tree.leaves(data)[0]), batch, steps, setup.seed)
    state = optimizer.init(first)
    params, state, losses = train(value, optimizer, first, state, data, index, steps)
    if batch is not None:
        rows = range(0, len(data[0]), batch)
        data = [jax.tree.map(lambda leaf, i=i: leaf[i : i + batch], data) for i in rows]
    history = {"loss": np.asarray(losses)}
    run = Run(value, apply, params, data, test_data, optimizer, state, history, first)
    return dataclasses.replace(run, **dict.fromkeys(without))


def train(
    loss: Callable[..., Any], optimizer: Any, params: Params, state: Any, data: Any, index: Any, steps: int
) -> tuple[Params, Any, Any]:
    """Parameters, the optimiser's state, and the loss of every step; `index`: rows of each, None for all."""

    @jax.jit
    def run(params: Params, state: Any, data: Any, index: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, inner = carry
            part = data if rows is None else jax.tree.map(lambda leaf: leaf[rows], data)
            value, gradient = jax.value_and_grad(loss)(at, part)
            updates, inner = optimizer.update(gradient, inner, at)
            return (optax.apply_updates(at, updates), inner), value

        return jax.lax.scan(step, (params, state), index, length=None if index is not None else steps)

    (params, state), losses = run(params, state, jax.tree.map(jnp.asarray, data), index)
    return params, state, losses


def order(count: int, batch: int | None, steps: int, seed: int) -> Any:
    """Rows of every step; None for all of them."""
    if batch is None:
        return None
    rng = np.random.default_rng([seed, 5])
    each = count // batch
    passes = [rng.permutation(count)[: each * batch].reshape(each, batch) for _ in range(-(-steps // each))]
    return jnp.asarray(np.concatenate(passes)[:steps])


def joined(run: Run) -> Any:
    """All training data as one batch."""
    if not isinstance(run.data, list):
        return run.data
    return jax.tree.map(lambda *parts: np.concatenate(parts), *run.data)


# What recipes share: optimisers, and changes of the start

cosine, nesterov = optax.cosine_decay_schedule, functools.partial(optax.sgd, nesterov=True)


def clipped(norm: float, optimizer: Any) -> Any:
    """An optimiser behind gradients that are clipped to a norm."""
    return optax.chain(optax.clip_by_global_norm(norm), optimizer)


def cut_to(limit: float) -> Any:
    """After each step, weights beyond a limit are set to it."""
    return optax.stateless_with_tree_map(lambda step, at: jnp.clip(at + step, -limit, limit) - at)


def same(params: Params) -> Params:
    """The start as it is drawn."""
    return params


def at(by: Callable[[Any], Any], *paths: tuple[Any, ...]) -> Callable[[Params], Params]:
    """A change of the start: of the arrays at paths of keys."""

    def changed(params: Params, path: tuple[Any, ...]) -> Params:
        if not path:
            return by(params)
        params = params.copy()
        params[path[0]] = changed(params[path[0]], path[1:])
        return params

    return lambda params: functools.reduce(changed, paths, params)
