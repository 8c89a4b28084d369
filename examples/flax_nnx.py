"""Flax NNX: a module with dropout and a frozen layer, moved in place when a saddle is left."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from _digits import batches
from flax import nnx

import hessian_probe as hp

TINY = nnx.initializers.normal(1e-4)


class Frozen(nnx.Variable):
    """What is not trained."""


class Net(nnx.Module):
    """One hidden layer behind a fixed scaling of the inputs, with dropout."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.scale = Frozen(jnp.full((64,), 2.0))
        self.hidden = nnx.Linear(64, 16, kernel_init=TINY, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.out = nnx.Linear(16, 10, kernel_init=TINY, rngs=rngs)

    def __call__(self, x):
        """Return logits."""
        return self.out(self.dropout(jnp.tanh(self.hidden(x * self.scale[...]))))


def loss(net: Net, batch) -> jax.Array:
    """Mean cross-entropy over the batch."""
    x, y = batch
    return optax.softmax_cross_entropy_with_integer_labels(net(x), y).mean()


@nnx.jit
def train_step(net: Net, optimizer: nnx.Optimizer, batch):
    """One step of the optimiser, in place."""
    value, grads = nnx.value_and_grad(loss)(net, batch)
    optimizer.update(net, grads)
    return value


def main() -> None:
    """Train, and print what the monitor saw."""
    net = Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(net, optax.sgd(0.02, momentum=0.5), wrt=nnx.Param)
    monitor = hp.training.NNXMonitor(loss, net, optimizer)
    for step, batch in enumerate(batches(1500, steps=900)):
        value = train_step(net, optimizer, batch)
        event = monitor.update(step, value, batch=batch)
        if event.kind == "escaped":
            print(event)
    print(f"loss after {step + 1} steps: {float(value):.3f}; cost: {monitor.monitor.cost}")


if __name__ == "__main__":
    main()
