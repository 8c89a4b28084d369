"""Losses of the small networks: functions of an apply, made once for each so that programs are reused."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.zoo.layers import Params

Apply = Callable[[Params, Any], Any]
Objective = Callable[[Apply], Callable[[Params, Any], Any]]


def objective(value: Callable[[Apply, Params, Any], Any]) -> Objective:
    """A loss of an apply, parameters and a batch."""
    return functools.cache(lambda apply: lambda params, batch: value(apply, params, batch))


def of_outputs(value: Callable[[Any, Any], Any]) -> Objective:
    """A loss of the outputs and the targets."""
    return objective(lambda apply, params, batch: value(apply(params, batch[0]), batch[1]))


@functools.cache
def penalised(base: Objective, decay: float) -> Objective:
    """A loss with a quadratic penalty on all parameters."""
    penalty = lambda params: 0.5 * decay * optax.tree.norm(params, squared=True)  # noqa: E731
    return objective(lambda apply, at, batch: base(apply)(at, batch) + penalty(at))


@functools.cache
def divided(base: Objective, size: int) -> Objective:
    """A loss divided by the size of a batch once more."""
    return objective(lambda apply, params, batch: base(apply)(params, batch) / size)


# Integer labels: mean cross-entropy, and the squared error against one-hot rows.
cross_entropy = of_outputs(
    lambda out, y: -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(out), y[:, None], axis=1))
)
one_hot_error = of_outputs(
    lambda out, y: 0.5 * jnp.mean(jnp.sum((out - jax.nn.one_hot(y, 10)) ** 2, axis=-1))
)
# Targets 0 and 1: from one logit, and several labels of a sample.
binary = of_outputs(lambda out, y: jnp.mean(optax.sigmoid_binary_cross_entropy(out, y)))
many_labels = of_outputs(lambda out, y: jnp.mean(jax.nn.softplus(out) - y * out))
# Half the squared error: in the mean over the batch, and summed over it.
squared = of_outputs(lambda out, y: 0.5 * jnp.mean(jnp.sum((out - y) ** 2, axis=-1)))
summed = of_outputs(lambda out, y: 0.5 * jnp.sum((out - y) ** 2))
# The squared error in the mean over samples and outputs.
averaged = of_outputs(lambda out, y: jnp.mean((out - y) ** 2))
absolute = of_outputs(lambda out, y: jnp.mean(jnp.abs(out - y)))
# Quadratic below 0.5 of a deviation, linear above.
huber = of_outputs(lambda out, y: jnp.mean(optax.huber_loss(out, y, delta=0.5)))
# Pseudo-Huber error: quadratic below 0.1 of a deviation, linear above (Charbonnier et al. 1997).
robust = of_outputs(lambda out, y: 0.1 * jnp.mean(jnp.sqrt(1 + ((out - y) / 0.1) ** 2) - 1))
# Negative log-likelihood of Poisson counts, and half the deviance of gamma-distributed targets less a
# constant; outputs are logarithms of means.
counts = of_outputs(lambda logs, y: jnp.mean(jnp.exp(logs) - y * logs))
gamma = of_outputs(lambda logs, y: jnp.mean(y * jnp.exp(-logs) + logs))


# Mean logarithm of the hyperbolic cosine of the errors.
log_cosh = of_outputs(lambda out, y: jnp.mean(jnp.logaddexp(out - y, y - out) - jnp.log(2.0)))


@of_outputs
def likelihood(outputs: Any, targets: Any) -> Any:
    """Negative log-likelihood of normal targets; the outputs are the mean and the log of the variance."""
    mean, log = jnp.split(outputs, 2, axis=-1)
    return 0.5 * jnp.mean(jnp.sum(log + (targets - mean) ** 2 * jnp.exp(-log), axis=-1))


# Mean squared error of an autoencoder, whose batches are the inputs alone; negative log-likelihood of inputs
# under a mixture, less the constant.
rebuilt = objective(lambda apply, params, batch: jnp.mean((apply(params, batch) - batch) ** 2))
unlikely = objective(lambda apply, at, batch: -jnp.mean(jax.nn.logsumexp(apply(at, batch), axis=-1)))


@objective
def squared_hinge(apply: Apply, params: Params, batch: Any) -> Any:
    """The objective of a support vector machine: mean squared hinge loss, and a small quadratic penalty."""
    margins = apply(params, batch[0]) * batch[1]
    penalty = sum(jnp.sum(layer["w"] ** 2) for layer in params)
    return jnp.mean(jax.nn.relu(1 - margins) ** 2) + 0.005 * penalty


@objective
def class_hinge(apply: Apply, params: Params, batch: Any) -> Any:
    """Squared distance of each class's score from its side of the margin, and a quadratic penalty."""
    scores = apply(params, batch[0])
    sides = 2 * jax.nn.one_hot(batch[1], scores.shape[-1]) - 1
    short = jax.nn.relu(1 - sides * scores)
    return jnp.mean(jnp.sum(short**2, axis=-1)) + 1e-2 * jnp.sum(params["w"] ** 2)
