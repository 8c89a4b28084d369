"""What was proposed and tried; results of `propose_rate`."""

from __future__ import annotations

import math

from hessian_probe.results import number, result, signed


@result(leaves=())
class RateSetting:
    """A learning rate and a momentum that were tried.

    Attributes:
        name: "as it is", "another rate" (of the same optimiser), or "heavy ball" (from rest).
        learning_rate: η in the optimiser's own units; NaN where that is not known (then see `factor`).
        momentum: β (β₁ of Adam).
        factor: learning rate ÷ the present one.
        ratio: present sharpness ÷ stability limit of the setting.
        predicted: change of the loss in `steps` steps by the local quadratic, in units of the loss.
        loss: loss over all data after `steps` steps; infinite if it was not finite.
    """

    name: str
    learning_rate: float
    momentum: float
    factor: float
    ratio: float
    predicted: float
    loss: float

    @property
    def text(self) -> str:
        """The setting in words."""
        rate = f"× {number(self.factor, 3)}"
        if not math.isnan(self.learning_rate):
            rate = f"{number(self.learning_rate, 3)} ({rate})"
        return f"learning rate {rate}, momentum {number(self.momentum, 3)}"

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        rows = [
            ("sharpness ÷ limit", number(self.ratio, 3)),
            ("loss changes", f"{signed(self.predicted, 3)} predicted by the local quadratic"),
            ("loss after", number(self.loss, 5)),
        ]
        return f"{self.name}: {self.text}", rows


@result(leaves=())
class RateProposal:
    """A learning rate and a momentum, tried; made by `propose_rate`.

    Attributes:
        status: "better" (one of the settings tried ends lower than the optimiser as it is), "no_better",
            or "undetermined" (`reason` says why).
        proposed: the Setting to go on with; None if undetermined.
        tried: every Setting tried, the optimiser as it is first.
        loss: loss over all data before any step.
        steps: steps of each trial.
        sharpness_ratio: sharpness ÷ stability limit of the optimiser as it is.
        reason: why the status is "undetermined", else "".
        num_hvps: Hessian-vector products spent.
        num_gradients: gradients of a batch spent in trials.
    """

    status: str
    proposed: RateSetting | None
    tried: tuple[RateSetting, ...]
    loss: float
    steps: int
    sharpness_ratio: float
    reason: str
    num_hvps: int
    num_gradients: int

    def _summary(self) -> tuple[str, list[tuple[str, str]]]:
        if self.proposed is None:
            return "Learning rate: UNDETERMINED", [("because", self.reason)]
        kept = "nothing tried was better than " if self.status == "no_better" else ""
        title = f"Proposal: {kept}{self.proposed.text}"
        rows = [("loss here", number(self.loss, 5))]
        for setting in self.tried:
            ends = f"{number(setting.loss, 5)} after {self.steps} steps"
            text = f"{setting.text}: {ends} ({signed(setting.predicted, 3)} predicted)"
            rows.append((setting.name, f"{text}, sharpness ÷ limit {number(setting.ratio, 3)}"))
        cost = f"{self.num_hvps} HVPs and {self.num_gradients} gradients of a batch"
        return title, [*rows, ("cost", cost)]
