"""The verdict on a point, with everything that decided it."""

from __future__ import annotations

from typing import Any

from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.result import EigenResult


@result(
    leaves=(
        "loss",
        "grad_norm",
        "distance",
        "critical_loss",
        "lowest",
        "highest",
        "zero_band",
        "escape_direction",
    )
)
class CriticalPoint:
    """What kind of point the parameters are at, or near; made by `classify`.

    Attributes:
        label: "minimum", "maximum", "saddle", "degenerate", "not_critical" or "undetermined".
        strict: True if second order alone decides the label; False if flat directions are involved.
        certified: True if the label's curvature claims are computed inequalities at a point where the
            gradient is zero to rounding; False if they rest on a probability or on samples, or if the
            critical point is only predicted.
        confidence: probability attached to the label, or None where none applies.
        loss: loss at the parameters.
        grad_norm: Euclidean norm of the gradient, in loss / params.
        distance: distance to the critical point that the label is about, in params; 0 if the
            gradient is zero to rounding, NaN if there is none.
        critical_loss: loss at that critical point (`loss` if the distance is 0, else NaN if none).
        lowest: EigenResult of the lowest end of the Hessian's spectrum at the parameters.
        highest: the same of the highest end.
        index_at_least: number of negative eigenvalues that are proved (interlacing).
        zero_band: curvature smaller than this in magnitude cannot be told from zero here.
        escape_direction: pytree like params of unit norm along which the curvature is negative,
            its sign chosen downhill; None if there is none.
        evidence: short sentences with the numbers that decided.
        num_hvps: Hessian-vector products spent.
        num_evaluations: loss or gradient evaluations spent beside them.
        size: number of variables.
        dtype: precision of the computation.
    """

    label: str
    strict: bool
    certified: bool
    confidence: float | None
    loss: float
    grad_norm: float
    distance: float
    critical_loss: float
    lowest: EigenResult
    highest: EigenResult
    index_at_least: int
    zero_band: float
    escape_direction: Any
    evidence: tuple[str, ...]
    num_hvps: int
    num_evaluations: int
    size: int
    dtype: str

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        kind = "certified" if self.certified else "not certified"
        if self.confidence is not None and not self.certified:
            kind = f"probability {self.confidence:.3g}"
        if self.label in ("undetermined", "not_critical", "degenerate"):
            title = f"CriticalPoint: {self.label.upper()}   loss {number(self.loss, 5)}"
        else:
            title = f"CriticalPoint: {self.label.upper()} ({kind})   loss {number(self.loss, 5)}"
        rows = [("|grad|", number(self.grad_norm, 3))]
        if self.distance > 0:
            rows.append(("distance", f"{number(self.distance, 3)} to the predicted critical point"))
        for name, end in (("lowest", self.lowest), ("highest", self.highest)):
            if len(end.eigenvalues):
                text = f"{signed(end.eigenvalues[0])} ± {number(end.residual_norms[0], 2)}"
                rows.append((name, text))
        if self.zero_band == self.zero_band:
            rows.append(("zero band", f"± {number(self.zero_band, 2)}"))
        if self.index_at_least:
            rows.append(("index", f"at least {self.index_at_least}"))
        rows.extend(("because", sentence) for sentence in self.evidence)
        rows.append(
            (
                "cost",
                f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations, "
                f"{self.size} variables, {self.dtype}",
            )
        )
        return title, rows
