"""`Escape`, what `escape` returns: status, new parameters, losses."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from hessian_probe.escapes.evidence import EscapeReason
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import Cost, number, result


@result(
    leaves=(
        "params",
        "loss_before",
        "loss_after",
        "distance",
        "step",
        "predicted",
        "point",
        "gain",
        "gain_of_slope",
    )
)
class Escape:
    """The outcome of an attempt to leave a point; made by `escape`.

    Attributes:
        status: "escaped" (the loss fell beyond rounding below the critical point's),
            "nothing_to_escape" (a minimum, or a slope that nothing tried gains more than),
            "no_decrease" (no step tried lowers the loss by more than the slope does), "undetermined" (the
            point could not be classified, or second order is silent).
        params: where to continue; never worse than what came in (the same object if nothing moved).
        loss_before: loss at the parameters that came in.
        loss_after: loss at `params`, on the same data.
        gain: decrease of the loss; where the search on spheres found it in several batches, on batches
            that the step was not fitted to.  0 if nothing moved.
        gain_of_slope: decrease by line searches along the gradient alone, which an escape exceeds twofold;
            NaN where that was not measured.
        distance: length of the step, in params.
        step: signed step along `point.escape_direction`; NaN where the move is `point.descent` or was found
            on a sphere.
        predicted: loss that the quadratic model predicts at `params`; NaN if nothing moved, or `step` is.
        num_hvps: Hessian-vector products spent, classification included.
        num_evaluations: loss and gradient evaluations spent, classification included.
        point: the classification it started from.
        evidence: short sentences with the numbers that decided.
        reasons: their codes (see `hessian_probe.escapes.evidence`).
    """

    status: str
    params: Any
    loss_before: float
    loss_after: float
    distance: float
    step: float
    predicted: float
    num_hvps: int
    num_evaluations: int
    point: CriticalPoint
    evidence: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    gain: float = 0.0
    gain_of_slope: float = math.nan

    @property
    def variables(self) -> str:
        """Which leaves were varied, and which were left out and why."""
        return self.point.variables

    @classmethod
    def of(
        cls,
        point: CriticalPoint,
        status: str,
        params: Any,
        before: float,
        *reasons: EscapeReason,
        slope: float = math.nan,
        cost: Cost | None = None,
    ) -> Escape:
        """Write down an attempt that moved nothing; its cost is added to that of the classification."""
        return cls(
            status=status,
            params=params,
            loss_before=before,
            loss_after=before,
            distance=0.0,
            step=0.0,
            predicted=math.nan,
            num_hvps=point.num_hvps,
            num_evaluations=point.num_evaluations + (0 if cost is None else cost.num_evaluations),
            point=point,
            evidence=tuple(str(reason) for reason in reasons),
            reasons=tuple(reason.code for reason in reasons),
            gain_of_slope=slope,
        )

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        title = f"Escape: {self.status.upper()}   from a point labelled {self.point.label.replace('_', ' ')}"
        rows = [("loss", f"{number(self.loss_before, 6)} → {number(self.loss_after, 6)}")]
        if self.distance > 0:
            how = "along the escape direction"
            if self.step != self.step:
                how = "on a sphere" if "fell_on_sphere" in self.reasons else "by a descent of higher order"
            rows.append(("step", f"{number(self.distance, 3)} {how}"))
        if not math.isnan(self.gain_of_slope):
            rows.append(("gain", f"{number(self.gain, 4)}; the slope alone {number(self.gain_of_slope, 3)}"))
        rows.extend(("because", sentence) for sentence in self.evidence)
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations"))
        return title, rows


@dataclasses.dataclass(frozen=True, eq=False)
class LossProfile:
    """Loss along the escape direction, and what second order predicts; made by `loss_profile`.

    Attributes:
        distances: shape (k,), ascending, signed, in params; 0 is the point itself.
        losses: shape (k,), the true loss.
        loss: loss at the point.
        slope: derivative of the loss along the direction at the point, in loss / params.
        curvature: curvature along it, in loss / params².
        step: signed step that an escape took; 0 if none.
        step_loss: loss there.
    """

    distances: np.ndarray
    losses: np.ndarray
    loss: float
    slope: float
    curvature: float
    step: float
    step_loss: float

    @property
    def model(self) -> np.ndarray:
        """Loss by the quadratic model at `distances`, shape (k,)."""
        t = self.distances
        return self.loss + self.slope * t + 0.5 * self.curvature * t**2
