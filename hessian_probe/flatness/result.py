"""Measures of sharpness, each with its error and its invariance; results of `sharpness`."""

from __future__ import annotations

import dataclasses
from typing import Any

from hessian_probe.results import number, plain, result, signed

CHANGES = {
    "none": "changes when layers are re-scaled",
    "layers": "unchanged by re-scaled layers",
    "units": "unchanged by re-scaled layers and units",
}


@result(leaves=())
class SharpnessMeasure:
    """One measure of sharpness; made by `sharpness`.

    Attributes:
        name: "lambda_max", "trace", "keskar", "filter_normalised", "adaptive_lambda_max",
            "adaptive_trace" or "adaptive_maximum".
        value: the measure.
        error: its uncertainty, of the kind that `error_kind` names.
        error_kind: "residual" (some eigenvalue lies within it), "standard_error", "spread_of_ascents"
            (how far the second-best one ended below; the value is a lower bound) or "rounding" (the whole
            spectrum was computed).
        invariance: what leaves the measure unchanged, of re-scalings of a network with ReLU units that
            leave its outputs unchanged: "none"; "layers" (a layer's weights and biases by α, the next
            layer's weights by 1/α); "units" (also a single unit's incoming weights and bias by α, its
            outgoing weights by 1/α).
        formula: what is measured.
        unit: its unit.
        source: where it comes from.
        num_hvps: Hessian-vector products spent on it.
        num_evaluations: losses with gradients spent on it.
    """

    name: str
    value: float
    error: float
    error_kind: str
    invariance: str
    formula: str
    unit: str
    source: str
    num_hvps: int
    num_evaluations: int

    def _text(self) -> str:
        if self.error_kind == "spread_of_ascents":
            return f"{signed(self.value, 4)} at least (next ascent {number(self.error, 1)} below)"
        return f"{signed(self.value, 4)} ± {number(self.error, 1)} ({self.error_kind.replace('_', ' ')})"

    def _cost(self) -> str:
        return f"{self.num_hvps} HVPs" if self.num_hvps else f"{self.num_evaluations} gradients"

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        rows = [
            ("formula", f"{self.formula}, in {self.unit}"),
            ("re-scaling", CHANGES[self.invariance]),
            ("source", self.source),
            ("cost", self._cost()),
        ]
        return f"{self.name}: {self._text()}", rows


@result(leaves=())
class Sharpness:
    """How sharp a point is, by several measures; made by `sharpness`.

    `found["trace"]` is the measure of that name.

    Attributes:
        measures: the measures, those first that change when layers are re-scaled.
        loss: loss at the parameters.
        grad_norm: norm of the gradient there, loss / params.
        size: number of variables.
        evidence: limits of what the numbers cover.
        num_hvps: Hessian-vector products spent in all.
        num_evaluations: losses with gradients spent in all.
        variables: which leaves were varied, and which were left out and why.
    """

    measures: tuple[SharpnessMeasure, ...]
    loss: float
    grad_norm: float
    size: int
    evidence: tuple[str, ...]
    num_hvps: int
    num_evaluations: int
    variables: str = ""

    def __getitem__(self, name: str) -> SharpnessMeasure:
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(f"{name!r} is not measured; there are {[m.name for m in self.measures]}")

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers; numbers that are not finite as None."""
        return dict(plain(dataclasses.asdict(self)))

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        wide = max(len(measure._text()) for measure in self.measures)
        rows = [(m.name, f"{m._text():<{wide}}  {CHANGES[m.invariance]}  {m._cost()}") for m in self.measures]
        rows.extend(("note", text) for text in self.evidence)
        rows.append(
            ("cost", f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations, {self.size} variables")
        )
        return f"Sharpness   loss {number(self.loss, 5)}, |grad| {number(self.grad_norm, 3)}", rows
