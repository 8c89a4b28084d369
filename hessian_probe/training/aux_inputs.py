"""Aux inputs: arrays beside the parameters that the loss reads and nobody trains.

Batch statistics, frozen layers and random keys are numbers that change from step to step, so they must
be arguments of compiled functions; and they are no variables, so no curvature may be taken along them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import PyTree

Spec = tuple[Any, tuple[tuple[str, Hashable], ...]]


class WithAux:
    """Parameters together with aux arrays, as one pytree whose only variables are the parameters.

    The aux floating-point arrays travel as the unsigned integers of their bits: JAX passes them along
    as it does any integer array, and they come back unchanged in `aux`.

    Args:
        params: pytree; its floating-point leaves are the variables.
        aux: pytree of arrays; other leaves (functions, strings, Python numbers) must be hashable, and a new
            one compiles anew.

    Raises:
        TypeError: an array of `aux` is complex.

    >>> WithAux(jnp.ones(2), {"mean": jnp.zeros(3)}).aux["mean"].shape
    (3,)
    """

    __slots__ = ("bits", "params", "spec")

    def __init__(self, params: PyTree, aux: PyTree) -> None:
        leaves, treedef = jax.tree.flatten(aux)
        packed = [_pack(leaf) for leaf in leaves]
        self.params = params
        self.bits = tuple(bits for bits, _ in packed if bits is not None)
        self.spec: Spec = (treedef, tuple(kind for _, kind in packed))

    @property
    def aux(self) -> PyTree:
        """The aux arrays, as they came in."""
        treedef, kinds = self.spec
        bits = iter(self.bits)
        return jax.tree.unflatten(treedef, [_unpack(kind, bits) for kind in kinds])


def _pack(leaf: Any) -> tuple[Any, tuple[str, Hashable]]:
    """Split a leaf into what travels as an array (or None) and what its type must be afterwards."""
    if not hasattr(leaf, "dtype"):
        return None, ("static", leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        raise TypeError(
            f"aux holds an array of dtype {leaf.dtype}; pass its real and imaginary parts as two arrays"
        )
    if not jnp.issubdtype(leaf.dtype, jnp.floating):
        return leaf, ("array", "")
    bits = jnp.dtype(f"uint{8 * jnp.dtype(leaf.dtype).itemsize}")
    if isinstance(leaf, np.ndarray | np.generic):
        return np.asarray(leaf).view(bits), ("bits", str(leaf.dtype))
    return jax.lax.bitcast_convert_type(leaf, bits), ("bits", str(leaf.dtype))


def _unpack(kind: tuple[str, Hashable], bits: Any) -> Any:
    name, what = kind
    if name == "static":
        return what
    leaf = next(bits)
    if name == "array":
        return leaf
    return jax.lax.bitcast_convert_type(jnp.asarray(leaf), jnp.dtype(str(what)))


def _flatten(self: WithAux) -> tuple[tuple[tuple[Any, Any], ...], Spec]:
    key = jax.tree_util.GetAttrKey
    return ((key("params"), self.params), (key("aux"), self.bits)), self.spec


def _unflatten(spec: Spec, children: Any) -> WithAux:
    self = object.__new__(WithAux)
    self.params, self.bits = children
    self.spec = spec
    return self


jax.tree_util.register_pytree_with_keys(WithAux, _flatten, _unflatten)


def with_aux(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Let a loss of parameters and aux arrays be probed as a loss of `WithAux`.

    Args:
        loss: `loss(params, aux) -> scalar`, or `loss(params, aux, batch)`.

    Returns:
        The function of one `WithAux`, and of a batch if there is one.

    Example:
        >>> loss = with_aux(lambda params, aux: jnp.sum(aux["scale"] * params**2))
        >>> float(loss(WithAux(jnp.ones(2), {"scale": jnp.asarray(3.0)})))
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
