"""One file for each check; `CHECKS` is the order in which they run."""

from hessian_probe.diagnosis.checks import (
    activations,
    conditioning,
    critical_point,
    generalisation,
    gradient_flow,
    history,
    inputs,
    learning_rate,
    noise,
    oscillation,
    underfitting,
)

# `divergence` runs before them: with numbers that are not finite none of these can.
CHECKS = (
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
