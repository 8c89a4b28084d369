"""The lecture's own example, which can be checked by hand."""

from __future__ import annotations

import jax.numpy as jnp

from hessian_probe.display.record import Section
from hessian_probe.escapes.escape import escape
from hessian_probe.operators.hessian import hessian
from hessian_probe.points.classify import classify
from hessian_probe.problems.networks import lecture_loss
from hessian_probe.results import signed
from hessian_probe.spectrum.eigsh import eigsh


def lecture_section() -> Section:
    """Classify and escape the origin of (1 − w₁w₂)²."""
    params = {"w1": jnp.zeros((), jnp.float32), "w2": jnp.zeros((), jnp.float32)}
    ends = eigsh(hessian(lecture_loss, params))
    point = classify(lecture_loss, params)
    move = escape(lecture_loss, params, point=point)
    along, reached = point.escape_direction, move.params
    return Section(
        key="lecture",
        title="1. The lecture's example: y = w₁w₂x, trained on x = y = 1",
        text=(
            'From Hung-yi Lee\'s lecture "What to do if my network fails to train", which teaches the test. '
            "The loss is (1 − w₁w₂)². At w = (0, 0) its gradient is zero, and gradient descent "
            "stays there. By hand: the Hessian is [[0, −2], [−2, 0]], its eigenvalues are −2 and 2, "
            "and the loss falls along ±(1, 1)/√2 = ±(0.7071, 0.7071).",
        ),
        facts=(
            ("eigenvalues", f"{signed(ends.eigenvalues[0])} and {signed(ends.eigenvalues[-1])}"),
            ("direction", f"({signed(along['w1'], 4)}, {signed(along['w2'], 4)})"),
            ("w after", f"({signed(reached['w1'], 4)}, {signed(reached['w2'], 4)})"),
        ),
        results=(("eigenvalues", ends), ("point", point), ("escape", move)),
    )
