"""Hooks for Flax (Linen and NNX), Equinox and Keras: each finds what is trained and what is an aux input.

Optax alone and Haiku need none: their parameters and states are plain pytrees, `Monitor` takes them.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import PyTree
from hessian_probe.training.events import Event
from hessian_probe.training.monitor import Monitor


def needs(module: str, extra: str) -> Any:
    """Import an extra, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'this hook needs {module.partition(".")[0]}: pip install "hessian_probe[{extra}]"'
        ) from error


def update_train_state(
    monitor: Monitor, state: Any, value: Any, *, batch: PyTree = None, aux: PyTree = None
) -> tuple[Any, Event]:
    """Give a monitor one step of a Flax Linen `TrainState`.

    Args:
        monitor: its loss is `loss(params, batch)`, or `loss(params, aux, batch)` with `aux`.
        state: the `flax.training.train_state.TrainState` after the step.
        value: the loss of the step.
        batch: the step's batch.
        aux: what the loss reads and nobody trains, for instance `state.batch_stats`.

    Returns:
        The state to continue with (the same object unless a saddle was left), and the event.

    Cost:
        That of `Monitor.update`.
    """
    event = monitor.update(
        int(state.step), state.params, value, opt_state=state.opt_state, batch=batch, aux=aux
    )
    if event.moved:
        state = state.replace(params=event.params, opt_state=event.opt_state)
    return state, event


class NNXMonitor:
    """Watch the training of a Flax NNX module, and move it in place where a saddle is left.

    Everything in the module that is not trained (batch statistics, dropout keys, frozen parameters) is an aux
    input of the probe: dropout then has one mask, and statistics stay as they are.

    Args:
        loss: `loss(module, batch) -> scalar mean over the batch`, as it is trained.
        module: the `nnx.Module`.
        optimizer: its `nnx.Optimizer`, whose state an escape may adjust; None leaves it alone.
        wrt: filter of the trained variables, as given to `nnx.Optimizer`; None means `nnx.Param`.
        data: see `Monitor`.
        key: see `Monitor`, as all that follow.
        window: steps until the first verdict of the plateau test, a multiple of 32.
        max_hvps: products that one classification may spend.
        max_share: share of the gradients that probes without a result may cost.
        moments: what becomes of the optimiser's state at an escape.
        log: file to append events to.

    Attributes:
        monitor: the `Monitor` that watches.

    Raises:
        ImportError: Flax is not installed; install the extra "flax".
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        module: Any,
        optimizer: Any = None,
        *,
        wrt: Any = None,
        data: Any = None,
        key: jax.Array | None = None,
        window: int = 64,
        max_hvps: int = 40,
        max_share: float = 0.01,
        moments: str = "reset",
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        self._nnx = needs("flax.nnx", "flax")
        self._module, self._optimizer = module, optimizer
        self._wrt = self._nnx.Param if wrt is None else wrt
        graph, trained, _ = self._nnx.split(module, self._wrt, ...)
        self._structure: Any = jax.tree.structure(trained)

        def apart(params: PyTree, aux: PyTree, *batch: Any) -> Any:
            return loss(self._nnx.merge(graph, self._state(params), aux), *batch)

        limits: dict[str, Any] = {"window": window, "max_hvps": max_hvps, "max_share": max_share}
        self.monitor = Monitor(apart, data, key=key, moments=moments, log=log, **limits)

    def update(self, step: int, value: Any, *, batch: PyTree = None) -> Event:
        """Give the monitor one step; module and optimiser are changed in place on an escape.

        Args:
            step: number of the step, for the log.
            value: the loss of the step.
            batch: the step's batch.

        Returns:
            Event.
        """
        nnx = self._nnx
        _, trained, aux = nnx.split(self._module, self._wrt, ...)
        params = nnx.to_pure_dict(trained)
        held = {} if self._optimizer is None else nnx.to_pure_dict(nnx.state(self._optimizer))
        state = held.get("opt_state")
        event = self.monitor.update(step, params, value, opt_state=state, batch=batch, aux=aux)
        if event.moved:
            nnx.update(self._module, self._state(event.params))
            if event.opt_state is not state:
                moments = nnx.state(self._optimizer)
                nnx.replace_by_pure_dict(moments, {**held, "opt_state": event.opt_state})
                nnx.update(self._optimizer, moments)
        return event

    def _state(self, params: PyTree) -> Any:
        """Write parameters in plain dicts as the module's own state."""
        return jax.tree.unflatten(self._structure, jax.tree.leaves(params))


class EquinoxMonitor:
    """Watch the training of an Equinox module.

    Args:
        loss: `loss(module, batch) -> scalar mean over the batch`; with `state` given to `update`,
            `loss(module, state, batch)`.
        trainable: which leaves are varied: a function of (leaf) or (path, leaf), or a mask: see `hp.hessian`.
        data: see `Monitor`.
        key: see `Monitor`, as all that follow.
        window: steps until the first verdict of the plateau test, a multiple of 32.
        max_hvps: products that one classification may spend.
        max_share: share of the gradients that probes without a result may cost.
        moments: what becomes of the optimiser's state at an escape.
        log: file to append events to.

    Attributes:
        monitor: the `Monitor` that watches.

    Raises:
        ImportError: Equinox is not installed; install the extra "equinox".
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        *,
        trainable: Any = None,
        data: Any = None,
        key: jax.Array | None = None,
        window: int = 64,
        max_hvps: int = 40,
        max_share: float = 0.01,
        moments: str = "reset",
        log: str | os.PathLike[str] | None = None,
    ) -> None:
        needs("equinox", "equinox")
        limits: dict[str, Any] = {"window": window, "max_hvps": max_hvps, "max_share": max_share}
        self.monitor = Monitor(loss, data, trainable=trainable, key=key, moments=moments, log=log, **limits)

    def update(
        self,
        step: int,
        module: Any,
        value: Any,
        *,
        opt_state: PyTree = None,
        batch: PyTree = None,
        state: Any = None,
    ) -> Event:
        """Give the monitor one step; continue with `event.params` (a module) and `event.opt_state`.

        Args:
            step: number of the step, for the log.
            module: the module after the step.
            value: the loss of the step.
            opt_state: state of the optimiser of `eqx.filter(module, trainable)`.
            batch: the step's batch.
            state: the `eqx.nn.State` of stateful layers, an aux input; None if there is none.

        Returns:
            Event.
        """
        return self.monitor.update(step, module, value, opt_state=opt_state, batch=batch, aux=state)


# What `fit` holds of a model.
VARIABLES = ("trainable", "non_trainable", "metrics", "optimizer")


def keras_callback(
    data: Any,
    *,
    key: jax.Array | None = None,
    window: int = 64,
    max_hvps: int = 40,
    max_share: float = 0.01,
    moments: str = "reset",
    log: str | os.PathLike[str] | None = None,
) -> Any:
    """Make a `keras.callbacks.Callback` that watches `model.fit` and leaves saddles.

    Keras shows callbacks neither the batch nor its loss: the probe works on `data`, and the loss of a
    batch is taken from the running mean that Keras logs.  The loss probed is the compiled one, with
    regularisation and before loss scaling, in training mode; non-trainable variables (frozen layers, batch
    statistics, dropout seeds) are aux inputs.

    Args:
        data: a list of batches `(x, y)` or `(x, y, sample_weight)`: a few are probed, a few others confirm.
        key: see `Monitor`, as all that follow.
        window: steps until the first verdict of the plateau test, a multiple of 32.
        max_hvps: products that one classification may spend.
        max_share: share of the gradients that probes without a result may cost.
        moments: "reset" (those shaped like a trained variable, and the count of steps, unless the rate
            follows a schedule of it) or "keep".
        log: file to append events to.

    Returns:
        The callback; its `monitor` is the `Monitor`, and `history` the list of its `Event`s that are
        not "none".

    Raises:
        ImportError: Keras is not installed; install the extra "keras".
        ValueError: an option is out of range, `moments="project"` among them.
        RuntimeError: at the start of `fit`, if the backend is not JAX.
    """
    keras = needs("keras", "keras")
    if moments == "project":
        raise ValueError('moments="project" is not available for Keras; expected "reset" or "keep"')
    resets = moments == "reset"
    limits: dict[str, Any] = {"window": window, "max_hvps": max_hvps, "max_share": max_share}

    class EscapeSaddles(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.monitor = Monitor(self._loss, data, key=key, moments=moments, log=log, **limits)
            self.history: list[Event] = []
            self._step = self._seen = 0
            self._mean = 0.0

        def _loss(self, params: Any, aux: Any, batch: Any) -> Any:
            held, metrics, optimizer = aux
            x, y, *weight = batch
            weights = weight[0] if weight else None
            found = self.model.compute_loss_and_updates(
                params, held, metrics, x, y, weights, training=True, optimizer_variables=optimizer
            )
            return found[1][0]  # before loss scaling

        def on_train_begin(self, logs: Any = None) -> None:
            if keras.backend.backend() != "jax":
                raise RuntimeError(
                    f"the Keras backend is {keras.backend.backend()}; set KERAS_BACKEND=jax before importing"
                )

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._seen, self._mean = 0, 0.0

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            mean, before = float((logs or {})["loss"]), self._mean * self._seen
            steps = batch + 1 - self._seen  # several at once with steps_per_execution
            value = (mean * (batch + 1) - before) / max(steps, 1)
            self._seen, self._mean = batch + 1, mean
            self._step += steps
            state = self.model._jax_state  # what `fit` holds; `jax_state_sync` writes it to the model
            params, *aux = (list(state[f"{name}_variables"]) for name in VARIABLES)
            event = self.monitor.update(self._step, params, value, aux=tuple(aux))
            if event.kind != "none":
                self.history.append(event)
            if event.moved:
                self.model.jax_state_sync()
                for variable, moved in zip(self.model.trainable_variables, event.params, strict=True):
                    variable.assign(jnp.asarray(moved))
                if resets or event.kind == "taken_back":
                    _reset(self.model.optimizer, keras.optimizers.schedules.LearningRateSchedule)

    return EscapeSaddles()


def _reset(optimizer: Any, schedule: type) -> None:
    """Start a Keras optimiser's moments and count of steps anew; nothing if its rate follows that count."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if isinstance(inner._learning_rate, schedule):
        return
    shapes = {tuple(variable.shape) for variable in inner._trainable_variables} - {()}
    averages = {id(variable) for variable in getattr(inner, "_model_variables_moving_average", ())}
    for variable in inner.variables:
        moment = tuple(variable.shape) in shapes and id(variable) not in averages
        if moment or variable is inner.iterations:
            variable.assign(jnp.zeros(variable.shape, variable.dtype))
