"""Hooks for Flax (Linen and NNX) and Equinox: each says what is trained, what is fixed, and where it is kept.

Optax alone and Haiku need none: their parameters and states are plain pytrees, `Monitor` takes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from hessian_probe.arrays import PyTree
from hessian_probe.training.events import Event
from hessian_probe.training.monitor import Monitor


def needs(module: str, extra: str) -> Any:
    """Import an extra, or say how to install it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'this hook needs {module.partition(".")[0]}: pip install "hessian_probe[{extra}]"'
        ) from error


def update_train_state(
    monitor: Monitor, state: Any, value: Any, batch: PyTree = None, fixed: PyTree = None
) -> tuple[Any, Event]:
    """Tell a monitor about a step of a Flax Linen `TrainState`.

    Args:
        monitor: its loss is `loss(params, batch)`, or `loss(params, fixed, batch)` with `fixed`.
        state: the `flax.training.train_state.TrainState` after the step.
        value: the loss of the step.
        batch: the step's batch.
        fixed: what the loss reads and nobody trains, for instance `state.batch_stats`.

    Returns:
        The state to go on with (the same object unless a saddle was left), and the event.

    Cost:
        That of `Monitor.update`.
    """
    event = monitor.update(
        int(state.step), state.params, value, opt_state=state.opt_state, batch=batch, fixed=fixed
    )
    if event.moved:
        state = state.replace(params=event.params, opt_state=event.opt_state)
    return state, event


class NNXMonitor:
    """Watch the training of a Flax NNX module, and move it in place where a saddle is left.

    Everything in the module that is not trained (batch statistics, dropout keys, frozen parameters) is
    held fixed while the monitor looks: dropout then has one mask, and statistics stay as they are.

    Args:
        loss: `loss(module, batch) -> scalar mean over the batch`, as it is trained.
        module: the `nnx.Module`.
        optimizer: its `nnx.Optimizer`, whose state an escape may adjust; None leaves it alone.
        wrt: filter of the trained variables, as given to `nnx.Optimizer`; None means `nnx.Param`.
        **options: those of `Monitor`.

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
        **options: Any,
    ) -> None:
        self._nnx = needs("flax.nnx", "flax")
        self._module, self._optimizer = module, optimizer
        self._wrt = self._nnx.Param if wrt is None else wrt
        graph, trained, _ = self._nnx.split(module, self._wrt, ...)
        self._structure: Any = jax.tree.structure(trained)

        def apart(params: PyTree, fixed: PyTree, *batch: Any) -> Any:
            return loss(self._nnx.merge(graph, self._state(params), fixed), *batch)

        self.monitor = Monitor(apart, **options)

    def update(self, step: int, value: Any, batch: PyTree = None) -> Event:
        """Tell the monitor about a step; module and optimiser are changed in place on an escape.

        Args:
            step: number of the step, for the log.
            value: the loss of the step.
            batch: the step's batch.

        Returns:
            Event.
        """
        nnx = self._nnx
        _, trained, fixed = nnx.split(self._module, self._wrt, ...)
        params = nnx.to_pure_dict(trained)
        held = {} if self._optimizer is None else nnx.to_pure_dict(nnx.state(self._optimizer))
        state = held.get("opt_state")
        event = self.monitor.update(step, params, value, opt_state=state, batch=batch, fixed=fixed)
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
        trainable: a filter (`eqx.is_inexact_array`, or a pytree of booleans like the module): what is
            trained; the rest is held fixed.  None means `eqx.is_inexact_array`.
        **options: those of `Monitor`.

    Attributes:
        monitor: the `Monitor` that watches.

    Raises:
        ImportError: Equinox is not installed; install the extra "equinox".
    """

    def __init__(self, loss: Callable[..., Any], *, trainable: Any = None, **options: Any) -> None:
        self._eqx = needs("equinox", "equinox")
        self._trainable = self._eqx.is_inexact_array if trainable is None else trainable

        def apart(params: PyTree, fixed: PyTree, *batch: Any) -> Any:
            rest, state = fixed
            module = self._eqx.combine(params, rest)
            return loss(module, *batch) if state is None else loss(module, state, *batch)

        self.monitor = Monitor(apart, **options)

    def update(
        self,
        step: int,
        module: Any,
        value: Any,
        opt_state: PyTree = None,
        batch: PyTree = None,
        state: Any = None,
    ) -> Event:
        """Tell the monitor about a step; go on with `event.params` (a module) and `event.opt_state`.

        Args:
            step: number of the step, for the log.
            module: the module after the step.
            value: the loss of the step.
            opt_state: state of the optimiser of `eqx.filter(module, trainable)`.
            batch: the step's batch.
            state: the `eqx.nn.State` of stateful layers, held fixed; None if there is none.

        Returns:
            Event.
        """
        params, rest = self._eqx.partition(module, self._trainable)
        event = self.monitor.update(
            step, params, value, opt_state=opt_state, batch=batch, fixed=(rest, state)
        )
        moved = self._eqx.combine(event.params, rest) if event.moved else module
        return dataclasses.replace(event, params=moved)
