"""The figure: training, the two ends of the spectrum, and the loss along the escape direction."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hessian_probe.display import panels
from hessian_probe.display.record import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A README is about 8.3 inches wide; the file holds nearly two dots for each pixel there.
WIDTH = 8.3
HEIGHTS = (2.7, 3.3)  # of the upper and the lower row, in inches
DPI = 180
FONT_SIZE = 9.5


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
    """Import matplotlib.

    Returns:
        Its class of figures.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the figure needs matplotlib: pip install 'hessian_probe[plot]'") from error
    return Figure


def draw(report: Report, *, theme: Theme = LIGHT) -> Figure:
    """Draw the panels for which the report has data.

    Args:
        report: what to show.
        theme: `LIGHT` or `DARK`.

    Returns:
        A matplotlib figure, not registered with pyplot.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the report has nothing to draw.
    """
    figure_class = require_matplotlib()
    if not report.has_figure:
        raise ValueError("this report has no curves, spectra or profile to draw")
    lower = [p for p, data in _lower_panels() if getattr(report, data)]
    heights = [h for h, on in zip(HEIGHTS, (report.curves, lower), strict=True) if on]
    figure = figure_class(figsize=(WIDTH, sum(heights)), dpi=DPI, facecolor=theme.paper, layout="constrained")
    grid = figure.add_gridspec(len(heights), max(len(lower), 1), height_ratios=heights)
    if report.curves:
        panels.training(_axes(figure, grid[0, :], theme), report, theme)
    for column, panel in enumerate(lower):
        panel(_axes(figure, grid[len(heights) - 1, column], theme), report, theme)
    return figure


def _lower_panels() -> tuple[tuple[Any, str], ...]:
    return ((panels.spectra, "spectra"), (panels.profile, "profile"))


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
    figure = draw(report, theme=theme)
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})
    return stream.getvalue()


def svg_bytes(report: Report, *, theme: Theme = LIGHT) -> bytes:
    """Draw the figure as an SVG; the same report gives the same bytes."""
    figure = draw(report, theme=theme)
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "hessian_probe"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def save_figure(report: Report, path: str | Path, *, theme: Theme = LIGHT) -> None:
    """Draw the figure into a PNG file."""
    Path(path).write_bytes(png_bytes(report, theme=theme))
