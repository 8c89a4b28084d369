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

FIRST = (lookups, derivative, uphill, divergence, broadcast, mixing, outputs, loop)
REST = (
    inputs, activations, gradient_flow, critical_point, oscillation, learning_rate, noise, conditioning,
    underfitting, generalisation, history,
)  # fmt: skip
PROGRAM_CHECKS = tuple(module.check for module in FIRST)
CHECKS = (*(module.check for module in REST), loop.check_frozen, loop.check_held_back)
