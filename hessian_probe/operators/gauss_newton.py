"""The generalised Gauss–Newton matrix of a loss of a network's outputs.

With outputs z = f(x), Jacobian J and H_L = ∂²L/∂z², the matrix G = Jᵀ H_L J is the Hessian at x of the loss
of *linearised* outputs, y ↦ L(f(x) + J·(y − x)), whose value and gradient at x are those of L∘f.  Products
with G are therefore Hessian-vector products of that function, by the same programs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from hessian_probe.arrays import Layout, PyTree, Vector, add_scaled, cast, hashable, scale
from hessian_probe.operators import derivatives
from hessian_probe.operators.data import Batch
from hessian_probe.operators.hessian import HessianOperator
from hessian_probe.operators.objective import Objective
from hessian_probe.operators.tracing import DIFFERENCES, FORWARD, REVERSE, Route, derivative_exists

# Ways to linearise outputs: by forward mode, or by reverse mode transposed (where a custom derivative has no
# forward mode).
FORWARD_MODE, TRANSPOSED = "forward mode", "transposed reverse mode"
# A function of moves of the outputs, a list of arrays.
Model = Callable[[list[Any]], jax.Array]
# Kernels of second derivatives, in which outputs are linearised.
SECOND = (derivatives.linearized, derivatives.forward_over_reverse, derivatives.reverse_over_reverse)


def gauss_newton(
    outputs: Callable[..., PyTree],
    loss_of_outputs: Callable[..., Any],
    params: PyTree,
    data: Any = None,
    *,
    trainable: Any = None,
    max_residual_bytes: int | None = None,
    check: bool = True,
) -> GaussNewtonOperator:
    r"""Make the generalised Gauss–Newton matrix of a loss a linear map.

    With outputs z, their Jacobian J with respect to the parameters, and the Hessian of the loss with
    respect to the outputs,

    $$G = J^\top \frac{\partial^2 L}{\partial z^2} J .$$

    It is positive semi-definite where L is convex in z, and equals the Hessian where outputs are linear in
    the parameters or the gradient of L with respect to z is zero.  For softmax with cross-entropy, and for
    squares, it is the Fisher matrix of the model's own distribution.

    Args:
        outputs: `outputs(params) -> z`, or with data `outputs(params, batch) -> z`; z is any pytree, of which
            the floating-point arrays are linearised.
        loss_of_outputs: `loss_of_outputs(z) -> scalar`, or with data `loss_of_outputs(z, batch) -> scalar
            mean over the batch`.
        params: pytree; the leaves that are not varied are passed on as they are.
        data: None, one batch, or a list or other re-iterable of batches, weighted by sample count, as for
            `hp.hessian`.
        trainable: which leaves are varied, as for `hp.hessian`.
        max_residual_bytes: memory that the stored linearisation may take, in bytes; None means a quarter of
            what is free, 0 recomputes always.
        check: at the first product, check that products are repeatable, symmetric and linear.

    Returns:
        The operator, at `params`, in loss / params²; its value and gradient are those of the loss.

    Raises:
        TypeError: a function is not callable, outputs hold no floating-point array, the loss is no real
            scalar; a leaf is complex, or asked for and not floating-point; data can be read only once.
        ValueError: `params` has no variable; `trainable` does not fit it; data is empty or irregular.  At the
            first product also `OperatorCheckError`, which names the likely cause of a failed check.

    Cost:
        As for `hp.hessian`.  The stored linearisation holds, beside what J needs, about three arrays of the
        size of z, and never a matrix of outputs by outputs.

    Source:
        N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent, Neural
        Computation 14, 2002, doi:10.1162/08997660260028683.

    Examples:
        >>> x, y = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([1.0, 0.0])
        >>> op = gauss_newton(
        ...     lambda w, batch: jnp.tanh(batch[0] @ w),
        ...     lambda z, batch: jnp.mean((z - batch[1]) ** 2),
        ...     jnp.zeros(2),
        ...     (x, y),
        ... )
        >>> op.dense().tolist()
        [[1.0, 2.0], [2.0, 5.0]]
    """
    require_functions(outputs=outputs, loss_of_outputs=loss_of_outputs)
    loss = LossOfOutputs(hashable(outputs), hashable(loss_of_outputs))
    objective = OutputsObjective(loss, params, data, trainable=trainable)
    op = GaussNewtonOperator(objective, max_residual_bytes=max_residual_bytes)
    op.unchecked = check
    return op


def require_functions(**given: Any) -> None:
    """Refuse what is no function.

    Raises:
        TypeError: one is none; the message names it.
    """
    for name, function in given.items():
        if not callable(function):
            raise TypeError(f"{name} must be a function; got {type(function).__name__}")


class GaussNewtonOperator(HessianOperator):
    """A generalised Gauss–Newton matrix at fixed parameters, as `gauss_newton` returns it."""


@dataclasses.dataclass(frozen=True)
class LossOfOutputs:
    """A loss in two parts; called, it is their composition.

    Attributes:
        outputs: the network, a function (or its `Identity`) of params and a batch, if there is one.
        loss: function of outputs and that batch.
    """

    outputs: Hashable
    loss: Hashable

    def __call__(self, params: PyTree, *batch: PyTree) -> Any:
        """Loss at params."""
        return derivatives.unwrapped(self.loss)(derivatives.unwrapped(self.outputs)(params, *batch), *batch)

    def loss_at(self, outputs: PyTree, *batch: PyTree) -> jax.Array:
        """Loss at outputs, a real scalar."""
        return derivatives.real_scalar(derivatives.unwrapped(self.loss)(outputs, *batch))

    def parts(self, arguments: derivatives.Arguments) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return the function from variables to outputs, two lists of arrays, and how to put these together.

        The first list is to be linearised, the second is not (integers).
        """
        seen: list[Any] = []  # structure of the outputs

        def outputs(variables: Vector) -> tuple[list[Any], list[Any]]:
            leaves, treedef = jax.tree.flatten(derivatives.unwrapped(self.outputs)(*arguments(variables)))
            arrays = [jnp.asarray(leaf) for leaf in leaves]
            kinds = [bool(jnp.issubdtype(leaf.dtype, jnp.inexact)) for leaf in arrays]
            if not any(kinds):
                names = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in arrays) or "nothing"
                raise TypeError(f"outputs returned {names}; expected at least one floating-point array")
            seen[:] = treedef, kinds
            pairs = list(zip(arrays, kinds, strict=True))
            return [leaf for leaf, on in pairs if on], [leaf for leaf, on in pairs if not on]

        def together(values: list[Any], others: list[Any]) -> PyTree:
            treedef, kinds = seen
            first, second = iter(values), iter(others)
            return jax.tree.unflatten(treedef, [next(first if on else second) for on in kinds])

        return outputs, together

    def model(
        self, together: Callable[..., PyTree], values: list[Any], others: list[Any], *batch: Any
    ) -> Model:
        """Return the function of moves of the outputs whose Hessian at zero stands between Jᵀ and J."""

        def loss(moves: list[Any]) -> jax.Array:
            moved = [value + move for value, move in zip(values, moves, strict=True)]
            return self.loss_at(together(moved, others), *batch)

        return loss

    def linearised(self, mode: str, arguments: derivatives.Arguments) -> derivatives.Scalar:
        """Return the model at outputs that are linearised at the very variables: its Hessian there is G."""

        def scalar(variables: Vector) -> jax.Array:
            at = jax.lax.stop_gradient(variables)
            step = tuple(v - a for v, a in zip(variables, at, strict=True))
            outputs, together = self.parts(arguments)
            if mode == FORWARD_MODE:
                values, moves, others = jax.jvp(outputs, (at,), (step,), has_aux=True)
            else:
                values, pullback, others = jax.vjp(outputs, at, has_aux=True)
                (moves,) = jax.linear_transpose(lambda z: pullback(z)[0], values)(step)
            return self.model(together, values, others, *arguments(at)[1:])(moves)

        return scalar

    def kind(self, arguments: derivatives.Arguments, x: Vector) -> str:
        """What tells a matrix at x from others of the same loss."""
        return "Gauss-Newton"


class OutputsObjective(Objective):
    """An objective whose second derivatives are those of the loss of linearised outputs.

    Attributes:
        linearised: how outputs are linearised; "" where only differences are left.
    """

    def _find_route(self, batch: Batch, shapes: tuple[Any, ...]) -> Route:
        arguments = derivatives.arguments_of(self.layout, batch.layout, self.non_variables, batch.arrays)
        function = derivatives.unwrapped(self.loss.function)
        jax.eval_shape(function.parts(arguments)[0], self.variables)
        kind = function.kind(arguments, self.variables)
        self.loss = self.loss._replace(fingerprint=f"{kind} {self.loss.fingerprint}")
        options = (
            (FORWARD_MODE, derivatives.forward_over_reverse, FORWARD),
            (TRANSPOSED, derivatives.forward_over_reverse, FORWARD),
            (TRANSPOSED, derivatives.reverse_over_reverse, REVERSE),
        )
        for mode, kernel, route in options:
            key = self.loss._replace(linearised=mode)
            if derivative_exists(kernel, key, self.layout, batch.layout, shapes):
                self.linearised = mode
                return route
        self.linearised = ""
        return DIFFERENCES

    def _partial(self, kernel: Any, batch: Batch) -> Any:
        mode = self.linearised if kernel in SECOND else ""
        return partial(kernel, self.loss._replace(linearised=mode), self.layout, batch.layout)

    def _difference(self, batch: Batch, x: Vector, v: Vector) -> Vector:
        h = self._difference_step(cast(x, self.layout.work_dtypes), v)
        return scale(1 / h, self._call(_by_differences, batch, x, scale(h, v))) if h else v


@partial(jax.jit, static_argnums=(0, 1, 2))
def _by_differences(
    loss: Any,
    layout: Layout,
    batch_layout: Layout | None,
    x: Vector,
    non_variables: Any,
    batch: Any,
    step: Vector,
) -> Vector:
    """Product of G and a small step, by central differences of outputs and of the model's gradient."""
    with jax.default_matmul_precision("highest"):
        function = derivatives.unwrapped(loss.function)
        arguments = derivatives.arguments_of(layout, batch_layout, non_variables, batch)
        outputs, together = function.parts(arguments)
        at = cast(x, layout.work_dtypes)
        values, pullback, others = jax.vjp(outputs, at, has_aux=True)
        ahead, behind = (outputs(add_scaled(at, sign, step))[0] for sign in (1.0, -1.0))
        moves = [0.5 * (a - b) for a, b in zip(ahead, behind, strict=True)]
        gradient = jax.grad(function.model(together, values, others, *arguments(at)[1:]))
        there, back = gradient(moves), gradient([-move for move in moves])
        return pullback([0.5 * (a - b) for a, b in zip(there, back, strict=True)])[0]
