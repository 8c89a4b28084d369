"""A copy of an optimiser, its second moments held, that is run to measure its response to gradients."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessian_probe.arrays import Layout, Vector, add_scaled, cast, from_tangent, tangent
from hessian_probe.optimizers import optax_state as states
from hessian_probe.optimizers.optax_state import UnreadableError, call_update
from hessian_probe.optimizers.thresholds import MAX_ACCUMULATION


class OptimizerProbe:
    """An optimiser on a copy of its state, with its preconditioner and its schedules held.

    Args:
        optimizer: has `update(gradients, state, params)`.
        opt_state: its state.
        layout: layout of the parameters.  Where they, or the state, hold fewer digits than float32, the
            copy is of float32: the rule is measured, not its rounding.
        rest: their other arrays.
        value: the loss, for transformations that take it.

    Raises:
        UnreadableError: the optimiser cannot be probed; the message says what is missing.
    """

    def __init__(
        self, optimizer: Any, opt_state: Any, layout: Layout, rest: tuple[Any, ...], value: float
    ) -> None:
        if not callable(getattr(optimizer, "update", None)):
            raise UnreadableError(f"optimizer has no update method; got {type(optimizer).__name__}")
        unknown = states.unknown_memory(opt_state)
        if unknown:
            raise UnreadableError(
                f"the optimiser keeps {unknown}, whose effect on its steps is not known here"
            )
        self.layout = layout._replace(dtypes=tuple(str(jnp.dtype(dtype)) for dtype in layout.work_dtypes))
        self.rest = rest
        self.zero: Vector = tuple(
            jnp.zeros(shape, dtype) for shape, dtype in zip(layout.shapes, self.layout.dtypes, strict=True)
        )
        self._update = jax.jit(
            lambda gradient, state, params: call_update(optimizer, gradient, state, params, value)
        )
        self.accumulation = 1
        start = states.without_momentum(states.widened(opt_state))
        self.accumulation = self._count(start)
        _, after = self.step(start, self.zero, self.zero)
        self.state = states.hold_second_moments(start, after)
        states.require_held(start, self.step(self.state, self.zero, self.zero)[1])

    def _count(self, start: Any) -> int:
        """Number of gradients that are gathered before a step."""
        gathering = [node for node in states.nodes(start) if states.accumulates(node)]
        if not gathering:
            return 1
        before, at = int(gathering[0].gradient_step), start
        for count in range(1, MAX_ACCUMULATION + 1):
            _, at = self.step(at, self.zero, self.zero)
            node = next(node for node in states.nodes(at) if states.accumulates(node))
            if int(node.gradient_step) > before:
                return count
        raise UnreadableError(f"the optimiser gathered {MAX_ACCUMULATION} gradients without taking a step")

    def step(self, state: Any, gradient: Vector, params: Vector) -> tuple[Vector, Any]:
        """One step, of all gradients that are gathered for it: the update, and the state after it."""
        trees = (tangent(self.layout, cast(v, self.layout.dtypes), self.rest) for v in (gradient, params))
        gradients, parameters = trees
        for _ in range(self.accumulation):
            try:
                updates, state = self._update(gradients, state, parameters)
                update = from_tangent(self.layout, updates, "the optimiser's update")
            except Exception as error:
                said = str(error).strip().split("\n")[0]
                raise UnreadableError(
                    f"optimizer.update(gradients, opt_state, params) raised {type(error).__name__}: {said}"
                ) from error
        return update, state

    def impulse(self, gradient: Vector, params: Vector, steps: int, state: Any = None) -> list[Vector]:
        """Return each step's update, from `state` or the held one, less that at zero gradient and parameters.

        Gradient and parameters differ from zero in the first step alone.
        """
        out = []
        at = idle = self.state if state is None else state
        frozen = at
        for step in range(steps):
            inputs = (gradient, params) if step == 0 else (self.zero, self.zero)
            update, after = self.step(at, *inputs)
            base, idle_after = self.step(idle, self.zero, self.zero)
            out.append(add_scaled(update, -1.0, base))
            at, idle = states.keep_momentum(frozen, after), states.keep_momentum(frozen, idle_after)
        return out


def signs(layout: Layout) -> Vector:
    """Draw a fixed vector of signs."""
    rng = np.random.default_rng(0)
    pairs = zip(layout.shapes, layout.work_dtypes, strict=True)
    return tuple(jnp.asarray(rng.choice([-1.0, 1.0], shape), dtype) for shape, dtype in pairs)
