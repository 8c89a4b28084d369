"""Aux inputs: arrays beside the parameters that the loss reads and nobody trains.

Batch statistics, frozen layers and random keys are numbers that change from step to step, so they must
be arguments of compiled functions; and they are no variables, so no curvature may be taken along them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from hessian_probe.arrays import PyTree, is_mask


class _Step:
    """A step of a path, as it is printed, and what the leaves behind it are if nobody trains them."""

    def __init__(self, text: str, untrained: str = "") -> None:
        self._text = text
        if untrained:
            self.untrained = untrained

    def __str__(self) -> str:
        return self._text


PARAMS, AUX = _Step(""), _Step(".aux", "an aux input")


class WithAux:
    """Parameters together with aux inputs, as one pytree whose only variables are the parameters.

    Args:
        params: pytree; its leaves that are varied are the variables.
        aux: pytree of arrays and Python numbers; a new leaf of another type (a function) compiles anew.

    >>> WithAux(jax.numpy.ones(2), {"mean": jax.numpy.zeros(3)}).aux["mean"].shape
    (3,)
    """

    __slots__ = ("aux", "params")

    def __init__(self, params: PyTree, aux: PyTree) -> None:
        self.params, self.aux = params, aux


jax.tree_util.register_pytree_with_keys(
    WithAux,
    lambda both: (((PARAMS, both.params), (AUX, both.aux)), None),
    lambda _, parts: WithAux(*parts),
)


def trainable_with_aux(trainable: Any) -> Any:
    """What is trainable of a `WithAux`, from what is of its parameters."""
    return WithAux(trainable, False) if is_mask(trainable) else trainable


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
