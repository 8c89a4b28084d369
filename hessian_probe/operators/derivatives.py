"""Compiled derivatives of a loss on one batch.

Every function takes the loss (a `tracing.LossKey`) and the layouts as static arguments and all numbers
as traced ones, so new parameters or batches of the same shapes never recompile.  Matrix products run at full
precision: reduced ones (TF32, bfloat16) can flip the sign of a small curvature.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import partial_eval

from hessian_probe.arrays import Array, Basis, Float, Identity, Layout, Vector, cast, dot, merge

Scalar = Callable[[Vector], jax.Array]
Arguments = Callable[[Vector], tuple[Any, ...]]


def unwrapped(function: Any) -> Any:
    """Return what `arrays.hashable` may have wrapped."""
    return function.value if isinstance(function, Identity) else function


def arguments_of(layout: Layout, batch_layout: Layout | None, non_variables: Any, batch: Any) -> Arguments:
    """Return the function from variables to the loss's arguments: params, and the batch if there is one."""

    def arguments(variables: Vector) -> tuple[Any, ...]:
        params = merge(layout, cast(variables, layout.dtypes), non_variables)
        return (params,) if batch_layout is None else (params, merge(batch_layout, (), batch))

    return arguments


def _scalar(loss: Any, layout: Layout, batch_layout: Layout | None, non_variables: Any, batch: Any) -> Scalar:
    """Return the loss as a function of the variables alone; with linearised outputs where the key says so."""
    function = unwrapped(loss.function)
    arguments = arguments_of(layout, batch_layout, non_variables, batch)
    if loss.linearised:
        return function.linearised(loss.linearised, arguments)
    return lambda variables: real_scalar(function(*arguments(variables)))


def real_scalar(output: Any) -> jax.Array:
    """Return what the loss returned as a JAX scalar; raise where it is not one real number."""
    if isinstance(output, (tuple, list, dict)) or output is None:
        raise TypeError(
            f"loss returned a {type(output).__name__}; expected one real scalar: return the loss "
            "alone, without auxiliary values (wrap it: lambda params: loss(params)[0])"
        )
    array = jnp.asarray(output)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"loss returned {array.dtype}; expected a real scalar: take jnp.real or jnp.abs")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"loss returned {array.dtype}; expected a floating-point scalar")
    if array.shape != ():
        raise ValueError(
            f"loss returned shape {array.shape}; expected a scalar (shape ()): take jnp.mean over the samples"
        )
    return array


@partial(jax.jit, static_argnums=(0, 1, 2))
def value(
    loss: Any, layout: Layout, blayout: Layout | None, x: Vector, non_variables: Any, batch: Any
) -> Float[Array, ""]:
    """Loss at `x`: scalar."""
    with jax.default_matmul_precision("highest"):
        return _scalar(loss, layout, blayout, non_variables, batch)(x)


def _compiled(derivative: Callable[..., Any]) -> Any:
    """Compile a function of (loss of the variables, variables in their working dtypes, further operands)."""

    def kernel(
        loss: Any,
        layout: Layout,
        blayout: Layout | None,
        x: Vector,
        non_variables: Any,
        batch: Any,
        *operands: Any,
    ) -> Any:
        scalar = _scalar(loss, layout, blayout, non_variables, batch)
        # Around the derivative, not the loss alone: a custom rule is traced after the loss has returned.
        with jax.default_matmul_precision("highest"):
            return derivative(scalar, cast(x, layout.work_dtypes), *operands)

    kernel.__name__, kernel.__doc__ = derivative.__name__, derivative.__doc__
    return jax.jit(kernel, static_argnums=(0, 1, 2))


@_compiled
def value_and_gradient(scalar: Scalar, x: Vector) -> tuple[Float[Array, ""], Vector]:
    """Loss and gradient at `x`."""
    return jax.value_and_grad(scalar)(x)


@_compiled
def linearized(scalar: Scalar, x: Vector) -> tuple[Float[Array, ""], Vector, Any]:
    """Loss, gradient, and the gradient's linearisation (a pytree that holds its residuals)."""
    (v, g), tangent_map = jax.linearize(jax.value_and_grad(scalar), x)
    program = jax.make_jaxpr(lambda t: tangent_map(t)[1])(x)
    # What only the loss's own derivative needs is dropped: it may have no forward mode at all.
    needed, _ = partial_eval.dce_jaxpr(program.jaxpr, [True] * len(program.jaxpr.outvars), True)
    return v, g, jax.tree_util.Partial(_Program(needed), program.consts)


class _Program:
    """The linear program of a tangent map, with its residuals as arguments.

    `jax.linearize` returns a pytree of residuals itself, but its static part may hold values of the
    trace (seen in JAX 0.6 to 0.8, where a part of the gradient is constant), so it cannot leave `jit`.
    """

    def __init__(self, jaxpr: Any) -> None:
        self.jaxpr = jaxpr

    def __call__(self, residuals: list[jax.Array], v: Vector) -> Vector:
        return tuple(jax.core.eval_jaxpr(self.jaxpr, residuals, *v))


@jax.jit
def apply_linearized(tangent_map: Any, v: Vector) -> Vector:
    """Hessian-vector product from a stored linearisation, which keeps the precision of its trace."""
    return tangent_map(v)


@jax.jit
def apply_to_rows(tangent_map: Any, rows: Basis) -> Basis:
    """Hessian-vector products of every row of a basis, in one program."""
    return jax.vmap(tangent_map)(rows)


@_compiled
def forward_over_reverse(scalar: Scalar, x: Vector, v: Vector) -> Vector:
    """Hessian-vector product as the directional derivative of the gradient; nothing is stored."""
    return jax.jvp(jax.grad(scalar), (x,), (v,))[1]


@_compiled
def reverse_over_reverse(scalar: Scalar, x: Vector, v: Vector) -> Vector:
    """Hessian-vector product as the gradient of ⟨gradient, v⟩: for losses without forward mode."""
    gradient = jax.grad(scalar)
    return jax.grad(lambda y: dot(gradient(y), v))(x)


def _on_line(at: Callable[[Vector], Any], x: Vector, d: Vector, ts: jax.Array) -> Any:
    """What a function of the variables gives at `x + t d` for every `t` before the first NaN; zeros after."""

    def one(index: Any, found: Any) -> Any:
        there = at(tuple(a + ts[index].astype(a.dtype) * b for a, b in zip(x, d, strict=True)))
        return jax.tree.map(lambda row, value: row.at[index].set(value), found, there)

    rows = jax.tree.map(lambda one: jnp.zeros((len(ts),), one.dtype), jax.eval_shape(at, x))
    return jax.lax.fori_loop(0, jnp.sum(~jnp.isnan(ts)), one, rows)


@_compiled
def line_forward(
    scalar: Scalar, x: Vector, d: Vector, ts: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Loss and its slope along `d` at `x + t d` for every `t`, by forward mode."""
    return _on_line(lambda y: jax.jvp(scalar, (y,), (d,)), x, d, ts)


@_compiled
def line_reverse(
    scalar: Scalar, x: Vector, d: Vector, ts: Float[Array, " k"]
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """The same by reverse mode, for losses without a forward derivative."""

    def at(y: Vector) -> tuple[jax.Array, jax.Array]:
        v, g = jax.value_and_grad(scalar)(y)
        return v, dot(g, d)

    return _on_line(at, x, d, ts)


@_compiled
def values(scalar: Scalar, x: Vector, moves: Basis) -> Float[Array, " k"]:
    """Loss at `x + move` for every row of a basis of moves, one after the other."""
    return jax.lax.map(lambda move: scalar(tuple(a + b for a, b in zip(x, move, strict=True))), moves)


@_compiled
def values_and_gradients(scalar: Scalar, x: Vector, moves: Basis) -> tuple[Float[Array, " k"], Basis]:
    """Loss and gradient at `x + move` for every row of a basis of moves, one after the other."""

    def at(move: Vector) -> tuple[jax.Array, Vector]:
        return jax.value_and_grad(scalar)(tuple(a + b for a, b in zip(x, move, strict=True)))

    return jax.lax.map(at, moves)


# Those of several points at once, which are the last operand.
AT_SEVERAL = (line_forward, line_reverse, values, values_and_gradients)
