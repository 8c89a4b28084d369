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

# `derivative`, `uphill`, `divergence` and `broadcast` run before them: where these find something, most of
# the others cannot.
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
