"""One file for each check, in the order in which they run; faults of the program end them."""

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
    lookups,
    loop,
    mixing,
    noise,
    oscillation,
    outputs,
    underfitting,
    uphill,
)

PROGRAM_CHECKS = (
    lookups.check,
    derivative.check,
    uphill.check,
    divergence.check,
    broadcast.check,
    mixing.check,
    outputs.check,
    loop.check,
)
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
    loop.check_frozen,
    loop.check_held_back,
    generalisation.check,
    history.check,
)
