"""The demo's measurements as a report."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from hessian_probe.demo import digits
from hessian_probe.demo.digits import Story
from hessian_probe.display.record import Curve, Report, Section, Spectrum, Table, spectrum_at
from hessian_probe.display.words import outcome, verdict
from hessian_probe.escapes.escape import escape
from hessian_probe.operators.hessian import hessian
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.problems.networks import lecture_loss
from hessian_probe.results import number, signed
from hessian_probe.spectrum.eigsh import eigsh
from hessian_probe.spectrum.result import EigenResult

# Numbers of further steps at which the two trainings are held against each other.
CHECKPOINTS = (0, 250, 500, 1000, 2000, 3000, 3500)


def report(lecture: Section | None, story: Story) -> Report:
    """Gather what was measured of the lecture's example (None: it did not get that far) and of the digits."""
    parts = [lecture, _stall(story), _verdict(story), _way_out(story), _onward(story), _end(story)]
    return Report(
        title="hessian_probe demo: stuck, classified, escaped, trained on",
        summary=_summary(story),
        sections=tuple(part for part in parts if part is not None),
        point=story.point,
        escape=story.move,
        curves=_curves(story),
        spectra=_spectra(story),
        profile=story.profile,
        loss_name="training loss (cross-entropy)",
    )


def _summary(story: Story) -> str:
    point, move = story.point, story.move
    if point is None:
        return "Interrupted before anything was known; what was measured follows."
    if move is None:
        return f"Interrupted before the escape. {verdict(point)}"
    proved = " (certified)" if point.certified else ""
    said = (
        f"A network on handwritten digits stalls at loss {number(point.loss, 5)}. The point is labelled "
        f"{point.label.replace('_', ' ')}{proved}. {outcome(move)}"
    )
    if story.after is not None and story.alone is not None:
        said += (
            f" After {len(story.after.losses) - 1:,} further steps of the same gradient descent the loss "
            f"is {number(story.after.losses[-1], 3)}; without the escape it is "
            f"{number(story.alone.losses[-1], 3)}."
        )
    return said


def _stall(story: Story) -> Section | None:
    before = story.before
    if before is None:
        return None
    widths = "-".join(map(str, digits.WIDTHS))
    size = sum(a * b + b for a, b in zip(digits.WIDTHS, digits.WIDTHS[1:], strict=False))
    steps = len(before.losses) - 1
    return Section(
        key="stall",
        title="2. Gradient descent stalls",
        text=(
            f"Data: scikit-learn's 1,797 handwritten digits. Network: {widths}, "
            f"{digits.ACTIVATION}, {size:,} parameters, mean cross-entropy, float32. Plain gradient "
            f"descent on all the data, rate {digits.RATE}.",
            f"Start: all weights {1 / digits.SCALE:,.0f} times smaller than usual (Gaussian of "
            f"deviation {digits.SCALE:g}/√inputs), biases zero. Why it stalls: the gradient of each "
            "layer is a product with the weights of the other. Where all are small, it is small; "
            "where all are zero, it is zero, and the network gives every image the same ten "
            "probabilities: a critical point at loss log 10 = 2.3026, that of guessing.",
            f"Stalled means: the loss fell by less than {digits.SHARE:.1%} over the last "
            f"{digits.WINDOW} steps.",
        ),
        facts=(
            ("steps", f"{steps:,}"),
            ("loss", f"{before.losses[0]:.6f} → {before.losses[-1]:.6f}"),
            ("accuracy", f"{before.accuracies[steps]:.1%} of the digits"),
        ),
    )


def _verdict(story: Story) -> Section | None:
    if story.point is None or story.ends is None:
        return None
    low, high = story.ends.eigenvalues[0], story.ends.eigenvalues[-1]
    return Section(
        key="plateau",
        title="3. What kind of point is this?",
        text=(verdict(story.point, advice=False),),
        results=(("point", story.point),),
        facts=(
            (
                "sharper",
                f"`hp.eigsh` puts the ends at {signed(low)} and {signed(high)}, to a residual of 1e-3·‖H‖; "
                "`hp.classify` ends as soon as both signs are proved",
            ),
            (
                "by hand",
                f"where all weights are zero, ∓{number(story.closed_form, 4)} couple the two layers, "
                f"once for each of the {digits.WIDTHS[1]} hidden units",
            ),
        ),
    )


def _way_out(story: Story) -> Section | None:
    move, controls = story.move, story.controls
    if move is None or controls is None or story.landed is None:
        return None
    return Section(
        key="escape",
        title="4. The way out",
        text=(outcome(move),),
        results=(("escape", move),),
        facts=(
            (
                "control",
                f"{len(controls)} random directions, steps of the same length: "
                f"loss {number(np.min(controls), 5)} … {number(np.max(controls), 5)}",
            ),
            (
                "now",
                f"{story.landed.label.replace('_', ' ')}, gradient norm {number(story.landed.grad_norm, 3)}",
            ),
        ),
    )


def _onward(story: Story) -> Section | None:
    after, alone, move = story.after, story.alone, story.move
    if after is None or alone is None or move is None:
        return None
    there = np.flatnonzero(alone.losses <= move.loss_after)
    if len(there):
        caught_up = (
            f"Left alone, gradient descent does leave the plateau in the end: it reaches the loss "
            f"that the escape gave at once after {there[0]:,} further steps."
        )
    else:
        caught_up = (
            f"Left alone, gradient descent has not reached the loss that the escape gave at once "
            f"after {len(alone.losses) - 1:,} further steps."
        )
    table = Table(
        "The same gradient descent from the plateau and from where the escape landed: loss, and digits right",
        ("further steps", "loss, alone", "loss, escaped", "right, alone", "right, escaped"),
        tuple(
            (
                f"{step:,}",
                *(f"{each.losses[step]:.4f}" for each in (alone, after)),
                *(f"{each.accuracies[step]:.1%}" for each in (alone, after)),
            )
            for step in CHECKPOINTS
            if step < len(alone.losses)
        ),
    )
    return Section(
        key="onward",
        title="5. Training goes on",
        text=(
            caught_up,
            f"The classification and the escape together cost {move.num_hvps} Hessian-vector "
            f"products and {move.num_evaluations} evaluations of the loss or its gradient.",
        ),
        table=table,
    )


def _end(story: Story) -> Section | None:
    if story.final is None:
        return None
    return Section(
        key="end",
        title="6. Where training ended",
        text=(verdict(story.final),),
        results=(("point", story.final),),
    )


def _curves(story: Story) -> tuple[Curve, ...]:
    stall = 0 if story.before is None else len(story.before.losses) - 1
    parts = (
        ("gradient descent", "before", 0, story.before),
        ("gradient descent, left alone", "alone", stall, story.alone),
        ("gradient descent after the escape", "after", stall, story.after),
    )
    return tuple(
        Curve(name, role, start + np.arange(len(part.losses)), part.losses)
        for name, role, start, part in parts
        if part is not None
    )


def _spectra(story: Story) -> tuple[Spectrum, ...]:
    places: tuple[tuple[str, CriticalPoint | None, EigenResult | None], ...] = (
        ("stalled", story.point, story.ends),
        ("after the\nescape", story.landed, story.landed_ends),
        ("at the\nend", story.final, story.final_ends),
    )
    return tuple(
        spectrum_at(name, ends, zero_band=point.zero_band)
        for name, point, ends in places
        if point is not None and ends is not None
    )


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
