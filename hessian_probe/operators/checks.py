"""Is the operator what it must be: repeatable, symmetric, linear?

A dropout key that changes, batch statistics that move, a loader that shuffles samples away, or a
custom derivative that is not the derivative all break one of the three, and every eigenvalue after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, dot, generator, norm, random_normal
from hessian_probe.operators.tracing import DIFFERENCES
from hessian_probe.results import number, result

if TYPE_CHECKING:
    from hessian_probe.operators.hessian import HessianOperator

# Relative defects allowed: far above rounding unless the Hessian cancels badly, far below a real defect,
# which is of order one.  Differences of gradients are accurate to about eps^(2/3).
TOLERANCE = 1e-2
TOLERANCE_DIFFERENCES = 5e-2


class OperatorCheckError(ValueError):
    """The operator failed its self-check; `check` holds the figures."""

    def __init__(self, check: OperatorCheck) -> None:
        super().__init__(check.cause)
        self.check = check


@result(leaves=())
class OperatorCheck:
    """Relative defects of an operator on random vectors u, v.

    Attributes:
        repeatability: ‖H'u − Hu‖ / ‖Hu‖, the gradient linearised and the data read a second time.
        asymmetry: |⟨u, Hv⟩ − ⟨v, Hu⟩| / (‖u‖ ‖Hv‖).
        nonlinearity: ‖H(u+v) − Hu − Hv‖ / (‖Hu‖ + ‖Hv‖).
        tolerance: what each may be.
        cause: "" if all are within it, else what is wrong and the likely cause.
    """

    repeatability: float
    asymmetry: float
    nonlinearity: float
    tolerance: float
    cause: str

    def require(self) -> OperatorCheck:
        """Return self if the operator passed.

        Raises:
            OperatorCheckError: it failed; the message names the likely cause.
        """
        if self.cause:
            raise OperatorCheckError(self)
        return self

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        title = f"OperatorCheck: {'FAILED' if self.cause else 'passed'}"
        rows = [
            (name, f"{number(getattr(self, name), 2)} (at most {self.tolerance:g})")
            for name in ("repeatability", "asymmetry", "nonlinearity")
        ]
        return title, rows + ([("cause", self.cause)] if self.cause else [])


def check_operator(op: HessianOperator) -> OperatorCheck:
    """Measure the three defects.

    Args:
        op: the operator.

    Returns:
        The check; call its `require()` to raise on a failure.

    Cost:
        Four products, which are not counted, and one more linearisation of the gradient.
    """
    rng = generator()
    u, v = (random_normal(rng, op.layout, op.active) for _ in range(2))
    hu, again, hv = op.product(u), op.at(op.x).product(u), op.product(v)
    both = op.product(add_scaled(u, 1.0, v))
    sizes = [float(norm(x)) for x in (hu, hv, u)]
    differences = op.objective.route is DIFFERENCES
    tolerance = TOLERANCE_DIFFERENCES if differences else TOLERANCE
    if not all(map(np.isfinite, sizes)):  # a status of its own wherever it matters
        return OperatorCheck(0.0, 0.0, 0.0, tolerance, "")
    rest = add_scaled(add_scaled(both, -1.0, hu), -1.0, hv)
    defects = (
        _ratio(_distance(again, hu), sizes[0]),
        _ratio(abs(float(dot(u, hv)) - float(dot(v, hu))), sizes[2] * sizes[1]),
        _ratio(float(norm(rest)), sizes[0] + sizes[1]),
    )
    return OperatorCheck(*defects, tolerance, _cause(op, defects, tolerance))


def _distance(a: Vector, b: Vector) -> float:
    return float(norm(add_scaled(a, -1.0, b)))


def _ratio(defect: float, size: float) -> float:
    return defect / size if size > 0 else (0.0 if defect == 0 else float("inf"))


def _cause(op: HessianOperator, defects: tuple[float, float, float], tolerance: float) -> str:
    repeatability, asymmetry, nonlinearity = defects
    if not repeatability <= tolerance:
        likely = (
            "the data differ from pass to pass (a loader that shuffles and drops, or augments)"
            if op.objective.data.is_sequence
            else "the loss is random (a dropout key drawn inside it, a host callback)"
        )
        return (
            f"the same product computed twice differs by {number(repeatability, 2)}: {likely}, or its "
            "batch statistics move; pass fixed keys and fixed batches"
        )
    if not nonlinearity <= tolerance:
        return (
            f"products are not linear (by {number(nonlinearity, 2)}): the gradient jumps or is random near "
            "these parameters; float64 or a smooth loss would tell"
        )
    if not asymmetry <= tolerance:
        return (
            f"products are not symmetric (by {number(asymmetry, 2)}): the gradient is not that of one loss; "
            "look for a custom derivative (custom_vjp, custom_jvp, stop_gradient, straight-through)"
        )
    return ""
