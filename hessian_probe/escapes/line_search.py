"""How far to go along a direction: a search on the true loss, both ways."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hessian_probe.arrays import Vector
from hessian_probe.operators.objective import Objective

# Every compiled call evaluates this many steps.
POINTS = 8
# The first scale shrinks 16-fold with every call, so at most to 2^-36 of it.
MAX_CALLS = 10
# A step is never longer than so many first scales (the length of the parameters, at least 1): a loss
# without a lower bound would carry it to infinity.
LONGEST = 8.0
# Calls that refine the bracket around the best step.
REFINEMENTS = 2


class LineStep(NamedTuple):
    """A step along a direction and the loss there."""

    length: float
    value: float


class LineSearch:
    """Search for the step with the lowest loss along ±direction.

    Args:
        objective: the loss.
        x: variables where the line starts.
        direction: unit vector.
        value: loss at `x`.
        margin: a decrease below this is rounding.
        both: take the better side; else +direction if the loss falls there at all.
    """

    def __init__(
        self, objective: Objective, x: Vector, direction: Vector, value: float, margin: float, both: bool
    ) -> None:
        self._objective, self._x, self._direction = objective, x, direction
        self._start, self._margin, self._both = value, margin, both
        self.best = LineStep(0.0, value)

    def run(self, scale: float) -> LineStep:
        """Search from a first scale: shrink until the loss falls, then walk out while it falls.

        The step found lies before the first rise of the loss seen on the way, in the valley next to
        the start, and within LONGEST scales.

        Args:
            scale: the longest step that is tried at first.

        Returns:
            The best step; of length 0 if none lowers the loss.
        """
        for call in range(MAX_CALLS):
            steps = scale * 16.0**-call * 0.5 ** np.arange(POINTS // 2)[::-1]
            values = self._values(np.concatenate([steps, -steps]))
            ahead, behind = np.split(values, 2)
            for sign, side in ((1.0, ahead), (-1.0, behind)):
                if sign > 0 or self._both or self.best.length == 0:
                    self._walk(sign * steps, side)
            if self.best.value < self._start - self._margin:
                break
        else:
            return self.best
        outermost = steps[-1]
        while abs(self.best.length) >= outermost and outermost < LONGEST * scale:
            sign = float(np.sign(self.best.length))
            steps = outermost * 2.0 ** np.arange(1, POINTS + 1)
            steps = steps[steps <= LONGEST * scale]
            if len(steps) == 0:
                break
            padded = np.pad(steps, (0, POINTS - len(steps)), mode="edge")
            self._walk(sign * padded, self._values(sign * padded))
            outermost = steps[-1]
        self._refine()
        return self.best

    def _refine(self) -> None:
        """Divide the bracket around the best step, which holds steps half and twice as long."""
        low, high = 0.5 * self.best.length, 2.0 * self.best.length
        for _ in range(REFINEMENTS):
            inner = np.linspace(low, high, POINTS + 2)
            width = inner[1] - inner[0]
            for step, value in zip(inner[1:-1], self._values(inner[1:-1]), strict=True):
                self._keep(step, value)
            low, high = self.best.length - width, self.best.length + width

    def _values(self, steps: np.ndarray) -> np.ndarray:
        values, _ = self._objective.line(self._x, self._direction, steps)
        return np.where(np.isfinite(values), values, np.inf)

    def _walk(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Go outwards while the loss falls, and keep the last step before it rises."""
        last = self.best.value if abs(self.best.length) < abs(steps[0]) else self._start
        for step, value in zip(steps, values, strict=True):
            if value > last:
                return
            last = value
            self._keep(step, value)

    def _keep(self, step: float, value: float) -> None:
        if value < self.best.value:
            self.best = LineStep(float(step), float(value))
