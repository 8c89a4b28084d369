"""Optax alone: a small network on digits that starts at a saddle, and a monitor beside the loop."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from _digits import batches

import hessian_probe as hp


def init(seed: int) -> dict:
    """Tiny weights: every class is guessed alike, and the loss stays at log 10."""
    rng = np.random.default_rng(seed)
    shapes = {"w1": (64, 16), "w2": (16, 10), "b1": (16,), "b2": (10,)}
    return {name: jnp.asarray(1e-4 * rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}


def loss(params, batch):
    """Mean cross-entropy over the batch."""
    x, y = batch
    logits = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


optimizer = optax.sgd(0.05)


@jax.jit
def train_step(params, opt_state, batch):
    """One step of the optimiser."""
    value, grads = jax.value_and_grad(loss)(params, batch)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value


def main() -> None:
    """Train, and print what the monitor saw."""
    params = init(0)
    opt_state = optimizer.init(params)
    monitor = hp.training.Monitor(loss)
    for step, batch in enumerate(batches(steps=900)):
        params, opt_state, value = train_step(params, opt_state, batch)
        event = monitor.update(step, params, value, opt_state=opt_state, batch=batch)
        params, opt_state = event.params, event.opt_state
        if event.kind == "escaped":
            print(event)
    print(f"loss after {step + 1} steps: {float(value):.3f}; cost of the monitor: {monitor.cost}")


if __name__ == "__main__":
    main()
