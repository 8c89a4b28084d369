"""Flax Linen: a TrainState with batch statistics, watched by a monitor."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from _digits import batches
from flax.training import train_state

import hessian_probe as hp

TINY = nn.initializers.normal(1e-4)


class Net(nn.Module):
    """One hidden layer, its inputs normalised over the batch."""

    @nn.compact
    def __call__(self, x, *, training: bool):
        """Return logits."""
        x = nn.BatchNorm(use_running_average=not training, momentum=0.9)(x)
        x = jnp.tanh(nn.Dense(16, kernel_init=TINY)(x))
        return nn.Dense(10, kernel_init=TINY)(x)


class TrainState(train_state.TrainState):
    """With the statistics of the batch normalisation."""

    batch_stats: Any


net = Net()


def loss_and_stats(params, batch_stats, batch):
    """Mean cross-entropy over the batch, and the new statistics."""
    x, y = batch
    variables = {"params": params, "batch_stats": batch_stats}
    logits, new = net.apply(variables, x, training=True, mutable=["batch_stats"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new["batch_stats"]


def loss(params, batch_stats, batch):
    """The loss alone, for the monitor."""
    return loss_and_stats(params, batch_stats, batch)[0]


@jax.jit
def train_step(state, batch):
    """One step of the optimiser."""
    both = jax.value_and_grad(loss_and_stats, has_aux=True)
    (value, stats), grads = both(state.params, state.batch_stats, batch)
    return state.apply_gradients(grads=grads, batch_stats=stats), value


def main() -> None:
    """Train, and print what the monitor saw."""
    variables = net.init(jax.random.key(0), jnp.zeros((1, 64)), training=True)
    state = TrainState.create(
        apply_fn=net.apply,
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        tx=optax.sgd(0.02, momentum=0.5),
    )
    monitor = hp.training.Monitor(loss)
    for batch in batches(1500, steps=900):
        state, value = train_step(state, batch)
        state, event = hp.training.update_train_state(
            monitor, state, value, batch=batch, aux=state.batch_stats
        )
        if event.kind == "escaped":
            print(event)
    print(f"loss after {int(state.step)} steps: {float(value):.3f}; cost of the monitor: {monitor.cost}")


if __name__ == "__main__":
    main()
