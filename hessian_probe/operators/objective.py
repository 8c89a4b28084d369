"""A loss with its parameters' layout and its data: values, gradients and lines."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import (
    Basis,
    Float,
    PyTree,
    Vector,
    add_scaled,
    cast,
    first_nonfinite,
    from_tangent,
    norm,
    scale,
    split,
    widest,
)
from hessian_probe.operators import derivatives
from hessian_probe.operators.data import Batch, Data
from hessian_probe.operators.thresholds import STEPS_AT_ONCE
from hessian_probe.operators.tracing import (
    DIFFERENCES,
    FORWARD,
    Route,
    abstract,
    find_route,
    has_forward_lines,
    machine_epsilon,
    same_operations,
    shapes_of,
    trace,
)
from hessian_probe.programs.nonfinite import nonfinite_derivative
from hessian_probe.results import Cost


def note_in_loss(error: BaseException, doing: str) -> None:
    """Note on an exception that it came out of the caller's loss; `notes_in_loss` returns these notes."""
    note = f"raised while hessian_probe {doing}"
    error.add_note(note)
    error.__dict__["notes_in_loss"] = (*notes_in_loss(error), note)


def notes_in_loss(error: BaseException) -> tuple[str, ...]:
    """Where in the caller's loss an exception was raised; empty where it was raised elsewhere."""
    return error.__dict__.get("notes_in_loss", ())


NUMBERS = (int, float, complex)


def _in_a_line(error: BaseException) -> str:
    """The line that names an exception; of one that JAX passes on from a callback, the callback's own."""
    text = f"{type(error).__name__}: {error}"
    named = [line for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception)\w*: .", line)]
    return (named or text.splitlines())[-1].strip()


class Objective:
    """The loss to be probed, at any parameters of one layout.

    Args:
        loss: `loss(params)` or, with data, `loss(params, batch)`; traceable by JAX, real scalar.
        params: pytree with at least one real floating-point array.
        data: None, one batch, or a re-iterable of batches (see `hessian_probe.operators.data`).
        cost: the ledger; None for a new one.
        trainable: which leaves are varied (see `hessian_probe.arrays.layout.split`).

    Attributes:
        cost: what was computed so far, by all operators of this objective too.
        facts: what the loss's program shows: chance, low precision, kinks, custom derivatives.
        eps: relative spacing of the coarsest numbers that the loss computes with.
        scalar_dtype: widest working dtype among the variables; steps along a line are given in it.
        refusals: what the loss raised at trial points, one line each; it counts there as not finite.

    Raises:
        TypeError: `loss` is not callable, returns no real scalar, or a leaf is complex.
        ValueError: no variable in `params`, or empty data.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        params: PyTree,
        data: Any = None,
        *,
        cost: Cost | None = None,
        trainable: Any = None,
    ) -> None:
        if not callable(loss):
            raise TypeError(f"loss must be a function of params; got {type(loss).__name__}")
        self.data = Data(data)
        self.cost = Cost() if cost is None else cost
        self.refusals: list[str] = []
        self._evaluated = 0  # batches
        batch = next(iter(self.data))
        self._read(loss, params, batch, trainable)
        shapes = self._shapes = shapes_of(self.variables, self.non_variables, batch)
        try:
            abstract(derivatives.value_and_gradient, self.loss, self.layout, batch.layout, shapes)
        except Exception as error:
            note_in_loss(error, "differentiated the loss")
            raise
        self.forward = has_forward_lines(self.loss, self.layout, batch.layout, shapes)
        self.route = self._find_route(batch, shapes)

    def _find_route(self, batch: Batch, shapes: tuple[Any, ...]) -> Route:
        """How the gradient is differentiated."""
        return find_route(self.loss, self.layout, batch.layout, shapes)

    def _read(self, loss: Callable[..., Any], params: PyTree, batch: Batch, trainable: Any) -> None:
        """Split the parameters and trace the loss.

        Python numbers are traced like arrays, so that a new value compiles nothing.  A loss that needs them
        as numbers (a width, a number of layers) raises then, and one that asks which leaves are arrays is
        another one: it is traced again with the integers, then with all numbers themselves.
        """
        for kept in ((), (int,), NUMBERS):
            parts = split(params, trainable=trainable, static_numbers=kept)
            self.layout, self.variables, self.non_variables = parts
            self.layout.require_variables()
            given = [None if hasattr(leaf, "dtype") else leaf for leaf in self.non_variables]
            numbers = any(leaf is not None for leaf in given)
            try:
                traced = trace(loss, *parts, batch)
                if numbers:
                    own = trace(loss, *split(params, trainable=trainable, static_numbers=NUMBERS), batch)
                    if not same_operations(traced, [*[None] * len(self.variables), *given], own):
                        continue
            except Exception as error:
                if numbers:
                    continue
                raise self._explained(error) from None
            self.loss, self.active, self.facts, _ = traced
            self.eps = machine_epsilon(self.layout, self.facts)
            self.scalar_dtype = widest(self.layout.work_dtypes)
            return

    def _explained(self, error: Exception) -> Exception:
        what = "loss(params)" if self.data.source is None else "loss(params, batch)"
        note_in_loss(error, f"traced {what}")
        if isinstance(self.data.source, list):
            error.add_note(
                "data is a list, so every item of it was passed as a batch; if it is one batch, pass a tuple"
            )
        return error

    @property
    def precision(self) -> str:
        """Precision of the parameters and, where the loss computes in less, that too."""
        own = np.dtype(self.layout.dtype)
        if self.eps <= float(jnp.finfo(own).eps):
            return own.name
        less = self.facts.lowest_float
        return f"{own.name} computed in {less if less and less != own.name else 'reduced products'}"

    def read(self, params: PyTree) -> Vector:
        """Read other parameters of the same layout as variables."""
        return cast(from_tangent(self.layout, params, "the other parameters"), self.layout.dtypes)

    def value(self, x: Vector) -> float:
        """Loss at `x`, averaged over the batches by weight."""
        self.cost.add(losses=1)
        return float(sum(b.weight * float(self._call(derivatives.value, b, x)) for b in self.data))

    def values(self, x: Vector, moves: Basis) -> Float[np.ndarray, " k"]:
        """Losses at `x + move`, float64 of shape (k,), for all k rows of a basis."""
        self.cost.add(losses=len(moves[0]))
        total = np.zeros(len(moves[0]))
        for batch in self.data:
            total += batch.weight * np.asarray(self._call(derivatives.values, batch, x, moves), np.float64)
        return total

    def value_and_gradient(self, x: Vector) -> tuple[float, Vector]:
        """Loss and gradient at `x`, averaged over the batches by weight."""
        self.cost.add(gradients=1)
        total, gradient = self._mean(derivatives.value_and_gradient, x)
        return float(total), gradient

    def gradient_of(self, batch: Batch, x: Vector) -> tuple[Any, Vector]:
        """Loss and gradient of one batch; the caller counts."""
        return self._call(derivatives.value_and_gradient, batch, x)

    def values_and_gradients(self, x: Vector, moves: Basis) -> tuple[Float[np.ndarray, " k"], Basis]:
        """Losses, float64 of shape (k,), and gradients at `x + move` for all k rows of a basis."""
        self.cost.add(gradients=len(moves[0]))
        return self._mean(derivatives.values_and_gradients, x, moves)

    def _mean(self, kernel: Any, x: Vector, *extra: Any) -> tuple[Any, Vector]:
        """Numbers, in float64, and vectors that a kernel gives, averaged over the batches by weight."""
        numbers, vectors = np.zeros(()), None
        for batch in self.data:
            found, beside = self._call(kernel, batch, x, *extra)
            numbers = numbers + batch.weight * np.asarray(found, np.float64)
            vectors = accumulate(vectors, batch.weight, beside)
        assert vectors is not None
        return numbers, vectors

    def line(
        self, x: Vector, direction: Vector, ts: Any
    ) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
        """Loss and slope ∇loss(x + t·direction)·direction for each of k steps t along a direction."""
        steps = np.atleast_1d(np.asarray(ts, np.float64))
        if self.forward:
            self.cost.add(losses=len(steps))
        else:
            self.cost.add(gradients=len(steps))
        kernel = derivatives.line_forward if self.forward else derivatives.line_reverse
        # One program for any number of them.
        room = np.pad(steps, (0, -len(steps) % STEPS_AT_ONCE), constant_values=np.nan)
        found = np.zeros((2, len(room)))
        for batch in self.data:
            pair = self._call(kernel, batch, x, direction, room.astype(self.scalar_dtype))
            found += batch.weight * np.asarray(pair, np.float64)
        values, slopes = found[:, : len(steps)]
        return values, slopes

    def program(self, batch: Batch, x: Vector) -> Any:
        """The loss of one batch as a closed jaxpr of (variables, non-variables, batch arrays)."""
        kernel = self._partial(inspect.unwrap(derivatives.value), batch)
        return jax.make_jaxpr(kernel)(x, self.non_variables, batch.arrays)

    def nonfinite_gradient(self, x: Vector, gradient: Vector) -> str:
        """Return which part of the gradient at `x` is not finite, and what makes it so; "" for none.

        Cost:
            Nothing where it is finite; else one gradient of each batch and, of one, operation by operation.
        """
        leaf, why = first_nonfinite(self.layout, gradient), ""
        if not leaf:
            return ""
        for batch in self.data:
            if first_nonfinite(self.layout, self.gradient_of(batch, x)[1]):
                inputs = jax.tree.leaves((x, self.non_variables, batch.arrays))
                why = nonfinite_derivative(self.program(batch, x), inputs)
                break
        return f"the gradient with respect to {leaf} is not finite at a finite loss" + (
            f": {why}" if why else ""
        )

    def linearized(self, batch: Batch, x: Vector) -> tuple[Any, Vector, Any]:
        """Loss, gradient and linearised gradient of one batch."""
        return self._call(derivatives.linearized, batch, x)

    def abstract_linearized(self, batch: Batch, x: Vector) -> Any:
        """Shapes of what `linearized` would return; nothing is computed."""
        return abstract(derivatives.linearized, self.loss, self.layout, batch.layout, self.shapes(batch))

    def shapes(self, batch: Batch) -> tuple[Any, ...]:
        """Shapes and dtypes of variables, non-variables and a batch, hashable."""
        return shapes_of(self.variables, self.non_variables, batch) if self.data.is_sequence else self._shapes

    def product_of(self, batch: Batch, x: Vector) -> Callable[[Vector], Vector]:
        """Hessian-vector product of one batch, by the objective's route."""
        if self.route is DIFFERENCES:
            return partial(self._difference, batch, x)
        return partial(self._call, self.product_kernel, batch, x)

    @property
    def product_kernel(self) -> Any:
        """Compiled function of a product that stores nothing."""
        forward = self.route is FORWARD
        return derivatives.forward_over_reverse if forward else derivatives.reverse_over_reverse

    def _difference(self, batch: Batch, x: Vector, v: Vector) -> Vector:
        work = cast(x, self.layout.work_dtypes)
        h = self._difference_step(work, v)
        if not h:
            return v
        ahead = self._call(derivatives.value_and_gradient, batch, add_scaled(work, h, v))[1]
        behind = self._call(derivatives.value_and_gradient, batch, add_scaled(work, -h, v))[1]
        return scale(1 / (2 * h), add_scaled(ahead, -1.0, behind))

    def _difference_step(self, work: Vector, v: Vector) -> float:
        """What central differences multiply `v` by; 0 where it is zero."""
        # Their error eps/h + h² is smallest near h = eps^(1/3) times the scale of x.
        length = float(norm(v))
        return self.eps ** (1 / 3) * (float(norm(work)) or 1.0) / length if length else 0.0

    def _partial(self, kernel: Any, batch: Batch) -> Any:
        return partial(kernel, self.loss, self.layout, batch.layout)

    def _abstract(self, kernel: Any, batch: Batch, x: Vector, *extra: Any) -> Any:
        return jax.eval_shape(self._partial(kernel, batch), x, self.non_variables, batch.arrays, *extra)

    def _call(self, kernel: Any, batch: Batch, x: Vector, *extra: Any) -> Any:
        """Run a kernel; where the loss raises at a trial point, its numbers there are NaN."""
        try:
            found = self._partial(kernel, batch)(x, self.non_variables, batch.arrays, *extra)
            if self.facts.callback:  # what these raise comes with the numbers
                jax.block_until_ready(found)
        except Exception as error:
            if "KeyboardInterrupt" in str(error):
                raise KeyboardInterrupt from error
            if self._evaluated < self.data.count or "RESOURCE_EXHAUSTED" in str(error):
                raise  # at the parameters themselves, or out of memory
            if kernel in derivatives.AT_SEVERAL and len(jax.tree.leaves(extra[-1])[0]) > 1:
                return self._one_by_one(kernel, batch, x, *extra)
            self.refusals.append(_in_a_line(error))
            shapes = self._abstract(kernel, batch, x, *extra)
            return jax.tree.map(lambda shape: jnp.full(shape.shape, jnp.nan, shape.dtype), shapes)
        self._evaluated += 1
        return found

    def _one_by_one(self, kernel: Any, batch: Batch, x: Vector, *extra: Any) -> Any:
        """Run a kernel for several points once for each, so that one that raises costs itself alone."""
        *others, points = extra
        rows = [
            self._call(kernel, batch, x, *others, jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], points))
            for i in range(len(jax.tree.leaves(points)[0]))
        ]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *rows)

    @property
    def ignored(self) -> tuple[str, ...]:
        """Names of the variables that the loss does not read."""
        pairs = zip(self.layout.names, self.active, self.layout.shapes, strict=True)
        return tuple(name for name, on, shape in pairs if not on and np.prod(shape))


def accumulate(total: Vector | None, weight: float, term: Vector) -> Vector:
    """Return `total + weight * term`, where a missing total counts as zero."""
    if total is None:
        return term if weight == 1.0 else scale(weight, term)
    return add_scaled(total, weight, term)
