"""Self-check of an operator: products must be repeatable, symmetric and linear.

A dropout key that changes, batch statistics that move, a loader that shuffles and drops samples, or a custom
derivative that is not the derivative violates one of the three, and makes every eigenvalue wrong.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hessian_probe.arrays import Vector, add_scaled, dot, norm
from hessian_probe.results import number, result

Product = Callable[[Vector], Vector]

# The likely cause of each defect, by what may be at fault, and the cure.
_STATISTICS = "or its batch statistics move; pass fixed keys and fixed batches"
RANDOM = {
    "batches": "the data differ from pass to pass (a loader that shuffles and drops, or augments), "
    + _STATISTICS,
    "loss": f"the loss is random (a dropout key drawn inside it, a host callback), {_STATISTICS}",
    "matvec": "matvec is random, or keeps a state; let it depend on its argument alone",
}
BENT = (
    "the gradient jumps or is random near these parameters; use float64, or a smooth loss",
    "matvec(u + v) must be matvec(u) + matvec(v); look for an offset, a clipping or a normalisation",
)
LOPSIDED = (
    "the gradient is not that of one loss; look for a custom derivative (custom_vjp, custom_jvp, "
    "stop_gradient, straight-through)",
    "⟨u, matvec(v)⟩ must be ⟨v, matvec(u)⟩; pass a symmetric map, for instance its symmetric part",
)


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
        tolerance: largest value that each may have.
        cause: "" if none is larger, otherwise what is wrong and the likely cause.
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


def check_products(
    u: Vector, v: Vector, product: Product, again: Product, *, tolerance: float, suspect: str
) -> OperatorCheck:
    """Return the three defects on two random vectors, measured by four products.

    `again` multiplies with everything read and computed a second time; `suspect` is what may be at fault: the
    "loss", its "batches", or a user's "matvec".
    """
    hu, hu_again, hv = product(u), again(u), product(v)
    both = product(add_scaled(u, 1.0, v))
    sizes = [float(norm(x)) for x in (hu, hv, u)]
    if not all(map(np.isfinite, sizes)):  # a status of its own wherever it matters
        return OperatorCheck(0.0, 0.0, 0.0, tolerance, "")
    remainder = add_scaled(add_scaled(both, -1.0, hu), -1.0, hv)
    repeatability = _ratio(float(norm(add_scaled(hu_again, -1.0, hu))), sizes[0])
    asymmetry = _ratio(abs(float(dot(u, hv)) - float(dot(v, hu))), sizes[2] * sizes[1])
    nonlinearity = _ratio(float(norm(remainder)), sizes[0] + sizes[1])
    cause = _cause(repeatability, asymmetry, nonlinearity, tolerance, suspect)
    return OperatorCheck(repeatability, asymmetry, nonlinearity, tolerance, cause)


def _ratio(defect: float, size: float) -> float:
    return defect / size if size > 0 else (0.0 if defect == 0 else float("inf"))


def _cause(
    repeatability: float, asymmetry: float, nonlinearity: float, tolerance: float, suspect: str
) -> str:
    if not repeatability <= tolerance:
        return f"the same product computed twice differs by {number(repeatability, 2)}: {RANDOM[suspect]}"
    if not nonlinearity <= tolerance:
        return f"products are not linear (by {number(nonlinearity, 2)}): {BENT[suspect == 'matvec']}"
    if not asymmetry <= tolerance:
        return f"products are not symmetric (by {number(asymmetry, 2)}): {LOPSIDED[suspect == 'matvec']}"
    return ""
