"""Aux inputs: arrays beside the parameters that the loss reads and nobody trains.

Batch statistics, frozen layers and random keys are numbers that change from step to step, so they must
be arguments of compiled functions; and they are no variables, so no curvature may be taken along them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from hessian_probe.arrays import PyTree


class WithAux(NamedTuple):
    """Parameters together with aux inputs, as one pytree of which the parameters alone are varied by default.

    >>> WithAux(jax.numpy.ones(2), {"mean": jax.numpy.zeros(3)}).aux["mean"].shape
    (3,)
    """

    params: PyTree
    untrained: PyTree

    @property
    def aux(self) -> PyTree:
        """The aux inputs, as they came in."""
        return self.untrained


def with_aux(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Let a loss of parameters and aux arrays be probed as a loss of `WithAux`.

    Args:
        loss: `loss(params, aux) -> scalar`, or `loss(params, aux, batch)`.

    Returns:
        The function of one `WithAux`, and of a batch if there is one.

    Example:
        >>> loss = with_aux(lambda params, aux: jax.numpy.sum(aux["scale"] * params**2))
        >>> float(loss(WithAux(jax.numpy.ones(2), {"scale": 3.0})))
        6.0
    """

    def joined(both: WithAux, *batch: Any) -> Any:
        return loss(both.params, both.aux, *batch)

    return joined


def only_params(results: PyTree) -> PyTree:
    """Replace every `WithAux` inside results by its parameters alone."""

    def joined(node: Any) -> bool:
        return isinstance(node, WithAux)

    return jax.tree.map(lambda node: node.params if joined(node) else node, results, is_leaf=joined)
