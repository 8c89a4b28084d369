"""Equinox: a module computed in bfloat16, its parameters kept in float32."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from _digits import batches

import hessian_probe as hp


def half(tree):
    """Cast floating-point arrays to bfloat16."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, tree)


def loss(net: eqx.nn.MLP, batch) -> jax.Array:
    """Mean cross-entropy over the batch; the network runs in bfloat16."""
    x, y = batch
    logits = jax.vmap(half(net))(x.astype(jnp.bfloat16)).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


optimizer = optax.sgd(0.05)


@eqx.filter_jit
def train_step(net, opt_state, batch):
    """One step of the optimiser."""
    value, grads = eqx.filter_value_and_grad(loss)(net, batch)
    updates, opt_state = optimizer.update(grads, opt_state)
    return eqx.apply_updates(net, updates), opt_state, value


def main() -> None:
    """Train, and print what the monitor saw."""
    net = eqx.nn.MLP(64, 10, 16, 1, activation=jnp.tanh, key=jax.random.key(0))
    net = jax.tree.map(lambda x: 1e-3 * x if eqx.is_inexact_array(x) else x, net)
    opt_state = optimizer.init(eqx.filter(net, eqx.is_inexact_array))
    monitor = hp.training.EquinoxMonitor(loss)
    for step, batch in enumerate(batches(1500, steps=900)):
        net, opt_state, value = train_step(net, opt_state, batch)
        event = monitor.update(step, net, value, opt_state=opt_state, batch=batch)
        net, opt_state = event.params, event.opt_state
        if event.kind == "escaped":
            print(event)
    print(f"loss after {step + 1} steps: {float(value):.3f}; cost: {monitor.monitor.cost}")


if __name__ == "__main__":
    main()
