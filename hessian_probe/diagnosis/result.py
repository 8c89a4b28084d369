"""A diagnosis: findings ranked by evidence, and what was not checked."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hessian_probe.results import number, plain, result

CAUSES = (
    "program", "derivative", "broadcast", "uphill", "input_scale", "divergence", "dead_units", "saturation",
    "exploding_gradients", "vanishing_gradients", "oscillation", "noise", "slow", "ill_conditioned", "saddle",
    "optimization", "model_bias", "minimum", "mismatch", "overfitting", "nothing_found", "healthy",
)  # fmt: skip


@result(leaves=())
class Finding:
    """One cause that was measured; made by `diagnose`.

    Attributes:
        cause: one of `hessian_probe.diagnosis.result.CAUSES`, such as "saddle"; for none "healthy", or
            "nothing_found" where too little was checked to say so.
        reason: a code: the measurement that decided, of those that the cause has, such as "sharpness" or
            "schedule_ended".
        claim: what was found, in a sentence.
        quantity: what `number` is.
        number: the measured number that decides.
        low: lower end of its uncertainty.
        high: upper end of its uncertainty.
        threshold: the value that it is held against.
        source: where the threshold comes from.
        confidence: probability that the number is beyond its threshold, given the uncertainty; not that
            the cause is the only one.  For these two: one minus the largest such probability below one half,
            times the share of causes that were checked.
        remedy: a code for `experiment`, such as "multiply_rate", "escape" or "standardise_inputs".
        experiment: the one next thing to try, in words.
        cost: what the measurement took.
        factor: what the remedy multiplies the learning rate by; None where it is no such remedy.
        place: for a fault of the program: leaf, operation, source line, batch and index, as far as they are
            known.
    """

    cause: str
    reason: str
    claim: str
    quantity: str
    number: float
    low: float
    high: float
    threshold: float
    source: str
    confidence: float
    remedy: str
    experiment: str
    cost: str
    factor: float | None = None
    place: str = ""

    @property
    def code(self) -> str:
        """The same as `reason`: which fault of the program it is, for the cause "program"."""
        return self.reason

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        return f"{self.cause.upper()} (confidence {self.confidence:.2f}): {self.claim}", self.rows()

    def rows(self) -> list[tuple[str, str]]:
        """Number, threshold, experiment and cost as rows of text."""
        spread = ""
        if math.isfinite(self.low) and math.isfinite(self.high) and self.low != self.high:
            spread = f" ({number(self.low, 3)} to {number(self.high, 3)})"
        where = [("place", self.place)] if self.place else []
        return [
            *where,
            ("number", f"{self.quantity} = {number(self.number, 3)}{spread}"),
            ("threshold", f"{number(self.threshold, 3)}: {self.source}"),
            ("try", self.experiment),
            ("cost", self.cost),
        ]


@result(leaves=())
class NotChecked:
    """A check that could not be made.

    Attributes:
        causes: the causes that it would find or rule out.
        needs: what it would need, in words.
        aspect: the part of the check that is missing; empty where all of it is.
    """

    causes: tuple[str, ...]
    needs: str
    aspect: str = ""

    @property
    def check(self) -> str:
        """What was not checked, in words."""
        return ", ".join(filter(None, (*self.causes, self.aspect)))

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        return f"not checked: {self.check}", [("needs", self.needs)]


@result(leaves=())
class Diagnosis:
    """Why training is stuck; made by `diagnose`.

    Attributes:
        findings: ranked, the strongest evidence first; "healthy" or "nothing_found" alone where nothing was.
        not_checked: checks that were not made, each with what it would need.
        loss: training loss at the parameters.
        measured: every figure that was measured, as pairs of a name and a text.
        num_hvps: Hessian-vector products spent.
        num_evaluations: losses and gradients over the training data spent.
        variables: which leaves were varied, and which were left out and why.
    """

    findings: tuple[Finding, ...]
    not_checked: tuple[NotChecked, ...]
    loss: float
    measured: tuple[tuple[str, str], ...]
    num_hvps: int
    num_evaluations: int
    variables: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return everything as dicts, lists, strings and numbers; numbers that are not finite as None."""
        return dict(plain(dataclasses.asdict(self)))

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        first = self.findings[0].cause.upper().replace("_", " ")
        if self.findings[0].reason == "little_checked":
            first += ", AND LITTLE CHECKED"
        rows: list[tuple[str, str]] = []
        for rank, finding in enumerate(self.findings, 1):
            rows.append((f"{rank}. {finding.cause} ({finding.confidence:.2f})", finding.claim))
            rows.extend((f"   {name}", text) for name, text in finding.rows())
        rows.extend(("not checked", f"{item.check}: needs {item.needs}") for item in self.not_checked)
        rows.append(("cost", f"{self.num_hvps} HVPs, {self.num_evaluations} evaluations"))
        return f"Diagnosis: {first}   training loss {number(self.loss, 5)}", rows
