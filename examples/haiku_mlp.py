"""Haiku: parameters and state are plain dicts, so the monitor takes them as they are."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
import optax
from _digits import batches

import hessian_probe as hp

TINY = hk.initializers.RandomNormal(1e-4)


def forward(x, *, training: bool):
    """Return logits of one hidden layer behind batch normalisation."""
    x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(x, training)
    return hk.Linear(10, w_init=TINY)(jnp.tanh(hk.Linear(16, w_init=TINY)(x)))


net = hk.without_apply_rng(hk.transform_with_state(forward))
optimizer = optax.sgd(0.02, momentum=0.5)


def loss_and_state(params, state, batch):
    """Mean cross-entropy over the batch, and the new state."""
    x, y = batch
    logits, state = net.apply(params, state, x, training=True)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), state


def loss(params, state, batch):
    """The loss alone, for the monitor."""
    return loss_and_state(params, state, batch)[0]


@jax.jit
def train_step(params, state, opt_state, batch):
    """One step of the optimiser."""
    both = jax.value_and_grad(loss_and_state, has_aux=True)
    (value, state), grads = both(params, state, batch)
    updates, opt_state = optimizer.update(grads, opt_state)
    return optax.apply_updates(params, updates), state, opt_state, value


def main() -> None:
    """Train, and print what the monitor saw."""
    params, state = net.init(jax.random.key(0), jnp.zeros((1, 64)), training=True)
    opt_state = optimizer.init(params)
    monitor = hp.training.Monitor(loss)
    for step, batch in enumerate(batches(steps=900)):
        params, state, opt_state, value = train_step(params, state, opt_state, batch)
        event = monitor.update(step, params, value, opt_state=opt_state, batch=batch, aux=state)
        params, opt_state = event.params, event.opt_state
        if event.kind == "escaped":
            print(event)
    print(f"loss after {step + 1} steps: {float(value):.3f}; cost of the monitor: {monitor.cost}")


if __name__ == "__main__":
    main()
