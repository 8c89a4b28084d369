"""`CriticalPoint`, what `classify` returns: the label with everything that decided it."""

from __future__ import annotations

import math
from typing import Any

from hessian_probe.results import number, result, signed
from hessian_probe.spectrum.result import EigenResult, IndexEstimate, Multiplicity


@result(
    leaves=(
        "loss",
        "grad_norm",
        "grad_norm_error",
        "distance",
        "critical_loss",
        "lowest",
        "highest",
        "zero_band",
        "radius",
        "escape_direction",
        "descent",
        "index_estimate",
        "gain",
        "resolution",
        "reach",
    )
)
class CriticalPoint:
    """What kind of point the parameters are at, or near; made by `classify`.

    A label is a statement about a region (`reach`) at a resolution (`resolution`): exact where `certified`,
    and where it rests on the gain alone, that nothing tried there changes the loss by more than this.

    Attributes:
        label: "minimum", "maximum", "saddle", "degenerate", "not_critical" or "undetermined".
        strict: True if second order (of not_critical: the gradient) decides the label; False if flat
            directions, higher order, finite steps or the gain are involved.
        certified: True if the label's curvature claims are computed inequalities at a point where the
            gradient is zero to rounding; False if they rest on a probability, on samples or on the gain, or
            if the critical point is only predicted.
        confidence: probability attached to the label, or None where none applies.
        loss: loss at the parameters.
        grad_norm: Euclidean norm of the gradient, in loss / params.
        grad_norm_error: standard error of the gradient over the data (root mean square length of its
            error), where these are at least four batches; else None.  The square of `grad_norm` exceeds
            that of the gradient of all there could be by its square, in the mean.
        distance: distance to the critical point that the label is about, in params; 0 if the gradient is
            zero to rounding, NaN if none was located: the label is then about the reach.
        critical_loss: loss at that critical point (`loss` if the distance is 0, else NaN if none).
        lowest: EigenResult of the lowest end of the Hessian's spectrum at the parameters.
        highest: the same of the highest end.
        index_at_least: number of negative eigenvalues, at the parameters, that are proved (interlacing).
        index_estimate: IndexEstimate, how many there are; exact where the whole spectrum was computed,
            else made with `count=True` only, and None without.
        multiplicities: eigenvalues that were found more than once (value, copies, whether that is exact).
        zero_band: curvature smaller than this in magnitude cannot be told from zero here.
        radius: distance up to which slopes and losses along the extreme eigenvectors show their curvature,
            in params; further out it predicts nothing.  NaN where none was confirmed.
        escape_direction: pytree like params of unit norm along which the curvature is negative,
            its sign chosen downhill; at a non-strict saddle or maximum the straight direction along which
            higher order falls, the curvature along it being zero; None if there is none.
        descent: pytree like params, a displacement to a lower loss that second order does not show, as far
            out as the loss was found to fall; the path there may be curved, so that the loss need not fall
            along the straight line to it.  None if there is none, or second order shows a descent.
        evidence: short sentences with the numbers that decided.
        reasons: their codes, one for each sentence; the first decided.  See `hessian_probe.points.evidence`.
        samples_needed: where the noise of the data leaves the label undetermined, how many samples in all
            would settle it with probability 0.9 (in the unit of the weights where `Batches` gave them); None
            elsewhere, with fewer than 16 batches, and where no number can be named.
        samples_interval: the interval of probability 0.8 of that number.
        batches_needed: into how many batches the same data should be cut first; None where more hardly help.
        num_hvps: Hessian-vector products spent; one with half of the batches counts as half.
        num_evaluations: loss or gradient evaluations spent beside them.
        size: number of variables.
        dtype: precision of the parameters and, where the loss computes in less, that too.
        gain: what is left to gain, in loss units: an estimate, on the safe side, of the largest decrease
            within the reach; at a maximum of the largest rise.  NaN where it was not measured.
        resolution: smallest change of the loss that counts, in loss units; NaN where it was not measured.
        reach: distance within which the gain was estimated, in params; NaN where it was not.
        variables: which leaves were varied, and which were left out and why.
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
    index_estimate: IndexEstimate | None
    multiplicities: tuple[Multiplicity, ...]
    zero_band: float
    radius: float
    escape_direction: Any
    descent: Any
    evidence: tuple[str, ...]
    num_hvps: int
    num_evaluations: int
    size: int
    dtype: str
    grad_norm_error: float | None = None
    samples_needed: int | None = None
    samples_interval: tuple[int, int] | None = None
    batches_needed: int | None = None
    reasons: tuple[str, ...] = ()
    gain: float = math.nan
    resolution: float = math.nan
    reach: float = math.nan
    variables: str = ""

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        kind = "certified" if self.certified else "not certified"
        if self.confidence is not None and not self.certified:
            kind = f"probability {self.confidence:.3g}"
        if self.label in ("undetermined", "not_critical", "degenerate"):
            title = f"CriticalPoint: {self.label.upper()}   loss {number(self.loss, 5)}"
        else:
            title = f"CriticalPoint: {self.label.upper()} ({kind})   loss {number(self.loss, 5)}"
        rows = self.left_to_gain()
        rows.append(("|grad|", number(self.grad_norm, 3) + _over_the_data(self.grad_norm_error)))
        if self.distance > 0:
            rows.append(("distance", f"{number(self.distance, 3)} to the predicted critical point"))
        for name, end in (("lowest", self.lowest), ("highest", self.highest)):
            if len(end.eigenvalues):
                text = f"{signed(end.eigenvalues[0])} ± {number(end.residual_norms[0], 2)}"
                error = None if end.standard_errors is None else end.standard_errors[0]
                rows.append((name, text + _over_the_data(error)))
        if self.zero_band == self.zero_band:
            rows.append(("zero band", f"± {number(self.zero_band, 2)}"))
        if self.index_estimate is not None and (self.index_estimate.high or self.index_at_least):
            rows.append(("index", f"{self.index_estimate}; at least {self.index_at_least} proved"))
        elif self.index_at_least:
            rows.append(("index", f"at least {self.index_at_least}"))
        if self.batches_needed is not None:
            rows.append(("would help", f"the same data, shuffled, in {self.batches_needed} batches"))
        if self.samples_needed is not None and self.samples_interval is not None:
            low, high = self.samples_interval
            rows.append(("would settle it", f"about {self.samples_needed:,} samples ({low:,} to {high:,})"))
        if self.descent is not None:
            path = "straight" if self.escape_direction is not None else "curved"
            rows.append(("descent", f"{path}, of higher order than second"))
        if self.multiplicities:
            rows.append(("repeated", ", ".join(str(group) for group in self.multiplicities[:8])))
        rows.extend(("because", sentence) for sentence in self.evidence)
        rows.append(
            (
                "cost",
                f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations, "
                f"{self.size} variables, {self.dtype}",
            )
        )
        return title, rows

    def left_to_gain(self) -> list[tuple[str, str]]:
        """Row of a report on what is left to gain; none where it was not measured."""
        if math.isnan(self.gain):
            return []
        name = "left to rise" if self.label == "maximum" else "left to gain"
        text = f"at most {number(self.gain, 2)} within {number(self.reach, 2)} of here"
        return [(name, f"{text} (resolution {number(self.resolution, 2)})")]


def _over_the_data(error: float | None) -> str:
    return "" if error is None else f" ± {number(error, 2)} over the data"
