"""A Keras 3 callback (JAX backend) that notices a plateau and leaves saddles while `fit` runs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from hessian_probe.training.adapters import needs
from hessian_probe.training.events import Event
from hessian_probe.training.monitor import Monitor

# What `fit` holds of a model.
VARIABLES = ("trainable", "non_trainable", "metrics", "optimizer")


def keras_callback(data: Any, **options: Any) -> Any:
    """Make a `keras.callbacks.Callback` that watches `model.fit` and leaves saddles.

    Keras shows callbacks neither the batch nor its loss: the probe works on `data`, and the loss of a
    batch is taken from the running mean that Keras logs.  The loss probed is the compiled one, with
    regularisation and before loss scaling, in training mode; non-trainable variables (frozen layers, batch
    statistics, dropout seeds) are held fixed.

    Args:
        data: a list of batches `(x, y)` or `(x, y, sample_weight)`: a few are probed, a few others confirm.
        **options: those of `Monitor`; `moments` is "reset" (those shaped like a trained variable, and the
            count of steps, unless the rate follows a schedule of it) or "keep".

    Returns:
        The callback; its `monitor` is the `Monitor`, and `history` the list of its `Event`s that are
        not "none".

    Raises:
        ImportError: Keras is not installed; install the extra "keras".
        ValueError: an option is out of range, `moments="project"` among them.
        RuntimeError: at the start of `fit`, if the backend is not JAX.
    """
    keras = needs("keras", "keras")
    moments = options.get("moments", "reset")
    if moments == "project":
        raise ValueError('moments="project" is not there for Keras; expected "reset" or "keep"')
    resets = moments == "reset"

    class EscapeSaddles(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.monitor = Monitor(self._loss, data, **options)
            self.history: list[Event] = []
            self._step = self._seen = 0
            self._mean = 0.0

        def _loss(self, params: Any, fixed: Any, batch: Any) -> Any:
            held, metrics, optimizer = fixed
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
            self._tell(value)

        def _tell(self, value: float) -> None:
            state = self.model._jax_state  # what `fit` holds; `jax_state_sync` writes it to the model
            params, *fixed = (list(state[f"{name}_variables"]) for name in VARIABLES)
            event = self.monitor.update(self._step, params, value, fixed=tuple(fixed))
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
