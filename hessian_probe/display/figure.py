"""The figure: training, the two ends of the spectrum, and the loss along the escape direction."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from hessian_probe.display.record import Report, Spectrum
from hessian_probe.results import number, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A README is about 8.3 inches wide; the file holds nearly two dots for each pixel there.
WIDTH = 8.3
HEIGHTS = (2.7, 3.3)  # of the upper and the lower row, in inches
DPI = 180
FONT_SIZE = 9.5
SMALL = 8.5
TITLE = 10.5
# Points of a curve that are drawn; more cannot be seen at this width.
DRAWN = 800
# Where along a curve its name stands, as a share of its steps, and how far off, in points.
NAME_AT = {"alone": (0.34, -13), "after": (0.3, 8)}
# Ticks on either side of zero on the axis of eigenvalues, at most.
TICKS = 3


@dataclasses.dataclass(frozen=True)
class Theme:
    """Colours; the accents are those of Okabe and Ito, told apart by colour-blind readers.

    Attributes:
        paper: background.
        ink: text and axes.
        faint: grid.
        down: negative curvature.
        up: positive curvature.
        main: the escape and what follows it.
        other: what happens without it.
        band: the zero band.
    """

    paper: str
    ink: str
    faint: str
    down: str
    up: str
    main: str
    other: str
    band: str


LIGHT = Theme("#ffffff", "#222222", "#dddddd", "#d55e00", "#0072b2", "#007f5f", "#777777", "#ccb974")
DARK = Theme("#14171a", "#e4e4e4", "#3a3f44", "#ff9a52", "#56b4e9", "#3fd0a4", "#a9a9a9", "#8a7a3a")


def require_matplotlib() -> type[Figure]:
    """Import matplotlib's class of figures; ImportError names the extra where it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'hessian_probe[plot]'") from error
    return Figure


def draw(report: Report, *, theme: Theme = LIGHT) -> Figure:
    """Return a figure, not registered with pyplot, of the panels for which the report has data.

    Raises:
        ValueError: the report has nothing to draw.
    """
    figure_class = require_matplotlib()
    if not report.has_figure:
        raise ValueError("this report has no curves, spectra or profile to draw")
    panels = ((draw_spectra, report.spectra), (draw_profile, report.profile))
    lower = [panel for panel, data in panels if data]
    heights = [h for h, on in zip(HEIGHTS, (report.curves, lower), strict=True) if on]
    figure = figure_class(figsize=(WIDTH, sum(heights)), dpi=DPI, facecolor=theme.paper, layout="constrained")
    grid = figure.add_gridspec(len(heights), max(len(lower), 1), height_ratios=heights)
    if report.curves:
        draw_training(_axes(figure, grid[0, :], theme), report, theme)
    for column, panel in enumerate(lower):
        panel(_axes(figure, grid[len(heights) - 1, column], theme), report, theme)
    return figure


def _axes(figure: Figure, place: Any, theme: Theme) -> Any:
    axes = figure.add_subplot(place)
    axes.set_facecolor(theme.paper)
    axes.tick_params(colors=theme.ink, labelsize=FONT_SIZE - 1)
    for name, spine in axes.spines.items():
        spine.set_color(theme.ink)
        spine.set_visible(name in ("left", "bottom"))
    axes.grid(color=theme.faint, linewidth=0.6)
    axes.set_axisbelow(True)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.ink)
        label.set_fontsize(FONT_SIZE)
    return axes


def png_bytes(report: Report, *, theme: Theme = LIGHT) -> bytes:
    """Draw the figure as a PNG."""
    stream = io.BytesIO()
    draw(report, theme=theme).savefig(
        stream, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    return stream.getvalue()


def svg_bytes(report: Report, *, theme: Theme = LIGHT) -> bytes:
    """Draw the figure as an SVG; the same report gives the same bytes."""
    figure = draw(report, theme=theme)
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hessian_probe"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def draw_training(axes: Any, report: Report, theme: Theme) -> None:
    """Loss against steps: up to the point, and on from there with and without the escape."""
    styles = {"before": (theme.ink, "-"), "alone": (theme.other, "--"), "after": (theme.main, "-")}
    for curve in report.curves:
        colour, dash = styles[curve.role]
        every = max(len(curve.steps) // DRAWN, 1)
        axes.plot(curve.steps[::every], curve.losses[::every], dash, color=colour, linewidth=1.8)
        if curve.role in NAME_AT:
            share, off = NAME_AT[curve.role]
            at = int(share * (len(curve.steps) - 1))
            _note(axes, curve.name, (curve.steps[at], curve.losses[at]), (0, off), colour)
    axes.set_xlabel("step of gradient descent")
    axes.set_ylabel(report.loss_name)
    axes.set_ylim(bottom=min(0.0, *(float(np.min(c.losses)) for c in report.curves)))
    axes.margins(x=0.01)
    _mark_escape(axes, report, theme)
    _title(axes, "Training", theme)


def _mark_escape(axes: Any, report: Report, theme: Theme) -> None:
    """An arrow from the point's loss down to the loss after the escape."""
    move = report.escape
    before = next((c for c in report.curves if c.role == "before"), None)
    if move is None or before is None:
        return
    step, label = before.steps[-1], move.point.label.replace("_", " ")
    start, end = (step, move.loss_before), (step, move.loss_after)
    axes.plot(*start, "o", color=theme.down, markersize=7, zorder=5)
    _note(axes, f"stalled: classified as {label}", start, (10, -14), theme.down)
    if move.status != "escaped":
        return
    style = {"arrowstyle": "-|>", "color": theme.down, "linewidth": 1.8, "shrinkA": 3}
    axes.annotate("", end, start, arrowprops=style)
    fall = f"{number(move.loss_before, 4)} → {number(move.loss_after, 4)}"
    middle = (step, 0.5 * (move.loss_before + move.loss_after))
    _note(axes, f"escape: {fall} in one step", middle, (10, -4), theme.down)


def draw_spectra(axes: Any, report: Report, theme: Theme) -> None:
    """Eigenvalues at both ends for each place, with their errors and the zero band."""
    shown = report.spectra
    _curvature_axis(axes, shown)
    axes.axvline(0.0, color=theme.ink, linewidth=0.8)
    for place, spectrum in enumerate(shown):
        y, first = len(shown) - 1 - place, place == 0
        if np.isfinite(spectrum.zero_band):
            edge = [-spectrum.zero_band, spectrum.zero_band]
            label = "zero band" if first else None
            axes.fill_between(edge, y - 0.4, y + 0.4, color=theme.band, label=label, zorder=1)
        for sign, name, colour in ((-1, "negative", theme.down), (1, "positive", theme.up)):
            at = np.sign(spectrum.eigenvalues) == sign
            axes.errorbar(
                spectrum.eigenvalues[at],
                np.full(np.sum(at), y),
                xerr=spectrum.errors[at],
                fmt="o",
                color=colour,
                markeredgecolor=theme.paper,
                markersize=6.5,
                capsize=3,
                linewidth=1.4,
                label=name if first else None,
            )
    axes.set_yticks(range(len(shown)), [s.name for s in reversed(shown)])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("eigenvalue ± residual (loss / params²)")
    _title(axes, "Both ends of the Hessian's spectrum", theme)
    _legend(axes, theme, columns=3)


def _curvature_axis(axes: Any, shown: tuple[Spectrum, ...]) -> None:
    """Logarithmic both ways, and linear inside the widest zero band."""
    sizes = np.concatenate([np.abs(s.eigenvalues) for s in shown])
    largest = float(np.max(sizes, initial=0.0)) or 1.0
    bands = [s.zero_band for s in shown if 0 < s.zero_band < largest]
    linear = max(bands, default=float(np.min(sizes[sizes > 0], initial=largest)) / 10)
    axes.set_xscale("symlog", linthresh=linear, linscale=0.6)
    low, high = np.ceil(np.log10(linear)), np.floor(np.log10(largest))
    ticks = 10.0 ** np.arange(high, low, -max(2, np.ceil((high - low) / TICKS)))
    ticks = np.concatenate([-ticks, [0.0], ticks])
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-4 * largest, 4 * largest)


def draw_profile(axes: Any, report: Report, theme: Theme) -> None:
    """The true loss along ±direction beside the quadratic model, with the step that was taken."""
    line = report.profile
    assert line is not None
    axes.plot(line.distances, line.losses, color=theme.main, linewidth=1.8, label="loss")
    axes.plot(line.distances, line.model, "--", color=theme.down, linewidth=1.4, label="quadratic model")
    finite = line.losses[np.isfinite(line.losses)]
    low, high = float(np.min(finite)), float(np.max(finite))
    room = 0.12 * (high - low) or 1.0
    axes.set_ylim(low - 2 * room, high + room)
    axes.margins(x=0.01)
    axes.plot([0.0], [line.loss], "o", color=theme.ink, markersize=6, label="the point")
    if line.step:
        label = f"step taken: {signed(line.step, 3)}"
        axes.plot(line.step, line.step_loss, "*", color=theme.down, markersize=13, label=label)
    axes.set_xlabel("distance, both ways (params)")
    axes.set_ylabel(report.loss_name)
    _title(axes, "Along the escape direction", theme)
    _legend(axes, theme, columns=2)


def _note(axes: Any, text: str, at: tuple[float, float], offset: tuple[float, float], colour: str) -> None:
    axes.annotate(text, at, xytext=offset, textcoords="offset points", color=colour, fontsize=SMALL)


def _title(axes: Any, text: str, theme: Theme) -> None:
    axes.set_title(text, loc="left", color=theme.ink, fontsize=TITLE)


def _legend(axes: Any, theme: Theme, *, columns: int) -> None:
    """Below the axes, where it hides nothing."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.19),
        ncol=columns,
        frameon=False,
        fontsize=SMALL,
        labelcolor=theme.ink,
        columnspacing=1.2,
        handlelength=1.6,
    )
