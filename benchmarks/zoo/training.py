"""Training runs as a user would hand them over, and what a plant is."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any


@dataclasses.dataclass
class Run:
    """A training run as a user would hand it over."""

    loss: Callable[..., Any]
    apply: Callable[..., Any]
    params: Params
    train: Any
    test: Any
    optimizer: Any
    opt_state: Any
    history: dict[str, np.ndarray]
    start: Params
    baseline: Any = None

    def arguments(self) -> dict[str, Any]:
        """Keywords of `hp.diagnose`."""
        names = ("history", "optimizer", "opt_state", "apply", "baseline")
        return {"data": self.train, "test_data": self.test} | {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Plant:
    """One kind of trouble.

    Attributes:
        name: what was done.
        cause: what `hp.diagnose` should name first.
        make: the run, from a seed.
        half: "tuning": thresholds were chosen with it in sight; "kept": it was not, but some failures led
            to changes of the rules; "blind": written after the last change of that time; "fresh": written
            by someone who had not seen the rules, and committed before the first count; "untouched": like
            "fresh", and no rule was changed after a diagnosis of them; "sealed": like "untouched", written
            after its first count; "unseen": the same, after the count of "sealed"; "reported": after that of
            "unseen", with troubles that users report in public; "further": after
            that of "reported".
        also: other causes that are true of it too.
        curable: acting on the first proposal should lower the training loss.
    """

    name: str
    cause: str
    make: Callable[[int], Run]
    half: str
    also: tuple[str, ...] = ()
    curable: bool = False


@functools.cache
def cross_entropy(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Mean cross-entropy of integer labels."""

    def loss(params: Params, batch: Any) -> Any:
        log = jax.nn.log_softmax(apply(params, batch[0]))
        return -jnp.mean(jnp.take_along_axis(log, batch[1][:, None], axis=1))

    return loss


@functools.cache
def squared(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Half the mean squared error of targets of the outputs' shape."""

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * jnp.mean(jnp.sum((apply(params, batch[0]) - batch[1]) ** 2, axis=-1))

    return loss


@functools.cache
def one_hot_error(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Squared error against one-hot rows of integer labels."""

    def loss(params: Params, batch: Any) -> Any:
        return 0.5 * jnp.mean(jnp.sum((apply(params, batch[0]) - jax.nn.one_hot(batch[1], 10)) ** 2, axis=-1))

    return loss


@functools.cache
def binary(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Mean cross-entropy of targets 0 and 1 from one logit."""

    def loss(params: Params, batch: Any) -> Any:
        return jnp.mean(optax.sigmoid_binary_cross_entropy(apply(params, batch[0]), batch[1]))

    return loss


@functools.cache
def rebuilt(apply: Callable[..., Any]) -> Callable[..., Any]:
    """Mean squared error of an autoencoder, whose batches are the inputs alone."""

    def loss(params: Params, batch: Any) -> Any:
        return jnp.mean((apply(params, batch) - batch) ** 2)

    return loss


@functools.cache
def penalised(decay: float) -> Callable[..., Any]:
    """The binary cross-entropy with a quadratic penalty."""

    @functools.cache
    def objective(apply: Callable[..., Any]) -> Callable[..., Any]:
        def loss(params: Params, batch: Any) -> Any:
            return binary(apply)(params, batch) + 0.5 * decay * optax.tree.norm(params, squared=True)

        return loss

    return objective


def fit(
    model: tuple[Any, Any],
    train: Any,
    test: Any,
    optimizer: Any,
    steps: int,
    seed: int,
    *,
    batch: int | None = None,
    objective: Callable[..., Any] = cross_entropy,
    change: Callable[[Params], Params] = lambda params: params,
    start: Params = None,
) -> Run:
    """Train, on the whole data or on shuffled batches of a size."""
    init, apply = model
    loss = objective(apply)
    params = change(init(seed)) if start is None else start
    first = params
    arrays = jax.tree.map(jnp.asarray, train)
    index = order(len(jax.tree.leaves(train)[0]), batch, steps, seed)

    @jax.jit
    def run(params: Params, state: Any, arrays: Any, index: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            at, inner = carry
            part = arrays if rows is None else jax.tree.map(lambda leaf: leaf[rows], arrays)
            value, gradient = jax.value_and_grad(loss)(at, part)
            updates, inner = optimizer.update(gradient, inner, at)
            return (optax.apply_updates(at, updates), inner), value

        return jax.lax.scan(step, (params, state), index, length=None if index is not None else steps)

    (params, state), losses = run(params, optimizer.init(params), arrays, index)
    handed: Any = train
    if batch is not None:
        handed = [
            jax.tree.map(lambda leaf, i=i: leaf[i : i + batch], train) for i in range(0, len(train[0]), batch)
        ]
    history = {"loss": np.asarray(losses)}
    return Run(loss, apply, params, handed, test, optimizer, state, history, first)


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
    if not isinstance(run.train, list):
        return run.train
    return jax.tree.map(lambda *parts: np.concatenate(parts), *run.train)
