"""One file for each check; `CHECKS` is the order in which they run."""

from hessian_probe.diagnosis.checks import (
    activations,
    broadcast,
    conditioning,
    critical_point,
    derivative,
    divergence,
    generalisation,
    gradient_flow,
    history,
    inputs,
    learning_rate,
    noise,
    oscillation,
    underfitting,
    uphill,
)

CHECKS = (
    derivative.check,
    uphill.check,
    divergence.check,
    broadcast.check,
    inputs.check,
    activations.check,
    gradient_flow.check,
    critical_point.check,
    oscillation.check,
    learning_rate.check,
    noise.check,
    conditioning.check,
    underfitting.check,
    generalisation.check,
    history.check,
)
