"""A report as one self-contained HTML page: no script, nothing loaded from elsewhere."""

from __future__ import annotations

import base64
import html
import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from hessian_probe.display import figure
from hessian_probe.display.record import Report, Result, Section, Table, summary_of

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #5a5a5a; --line: #d8d8d8; --paper: #fff;
  --tint: #f5f5f2; --mark: #a84300; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e4e4; --soft: #a9a9a9; --line: #3a3f44;
  --paper: #14171a; --tint: #1d2125; --mark: #ff9a52; } }
body { background: var(--paper); color: var(--ink); margin: 0 auto; max-width: 53rem;
  padding: 1.5rem 1rem 3rem; font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .4rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 44rem; }
.summary { font-size: 1.1rem; }
.label { color: var(--mark); font-weight: 600; }
figure { margin: 1.5rem 0; }
figure img { display: block; height: auto; width: 100%; }
figcaption { color: var(--soft); font-size: .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums;
  margin: .8rem 0; min-width: min(100%, 30rem); }
caption { caption-side: top; text-align: left; font-weight: 600; padding: .3rem .6rem;
  background: var(--tint); }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left; vertical-align: top; }
th[scope=row] { color: var(--soft); font-weight: 400; white-space: nowrap; }
.numbers th, .numbers td { text-align: right; white-space: nowrap; }
ul { margin: 0; padding-left: 1.1rem; }
code { font-family: ui-monospace, monospace; font-size: .95em; }
footer { color: var(--soft); font-size: .85rem; margin-top: 2.5rem; }
"""


def to_html(report: Report) -> str:
    """Write a report as one HTML page, with its figure as SVG for light and for dark surroundings."""
    parts = [
        f"<header><h1>{_text(report.title)}</h1>{_labels(report)}"
        f'<p class="summary">{_text(report.summary)}</p></header>',
        _figure(report) if report.has_figure else "",
        *(_section(section) for section in report.sections),
        f"<footer>{_text(report.footer)}</footer>" if report.footer else "",
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(report.title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def save_html(report: Report, path: str | Path) -> None:
    """Write a report into an HTML file."""
    Path(path).write_text(to_html(report), encoding="utf-8")


def _text(text: str) -> str:
    """Escape, and set what stands between backquotes as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def _labels(report: Report) -> str:
    said = []
    if report.point is not None:
        said.append(report.point.label.replace("_", " "))
    if report.escape is not None:
        said.append(report.escape.status.replace("_", " "))
    return f'<p class="label">{html.escape(" · ".join(said))}</p>' if said else ""


def _figure(report: Report) -> str:
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(figure.svg_bytes(report, theme=t)).decode()
        for t in (figure.LIGHT, figure.DARK)
    )
    caption = _caption(report)
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{html.escape(caption)}"></picture>'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _caption(report: Report) -> str:
    said = []
    if report.curves:
        said.append("The loss while training, with the point where it stalled and what followed.")
    if report.spectra:
        said.append(
            "Eigenvalues at both ends of the Hessian's spectrum, on a scale that is logarithmic both "
            "ways; within the zero band a curvature has no sign."
        )
    if report.profile is not None:
        said.append("The loss along the escape direction and what second order predicts.")
    return " ".join(said)


def _section(section: Section) -> str:
    parts = [f"<h2>{_text(section.title)}</h2>"]
    parts.extend(f"<p>{_text(text)}</p>" for text in section.text)
    if section.facts:
        parts.append(_facts(section.facts, ""))
    parts.extend(_result(result) for _, result in section.results)
    if section.table is not None:
        parts.append(_table(section.table))
    return f'<section id="{html.escape(section.key)}">\n' + "\n".join(parts) + "\n</section>"


def _result(result: Result) -> str:
    title, rows = summary_of(result)
    return _facts(rows, re.sub(r"\s{2,}", " · ", title))


def _facts(rows: Iterable[tuple[str, str]], caption: str) -> str:
    """One row for each name; texts under one name become a list."""
    lines = []
    for name, group in itertools.groupby(rows, key=lambda row: row[0]):
        texts = [_text(text) for _, text in group]
        items = "".join(f"<li>{text}</li>" for text in texts)
        cell = texts[0] if len(texts) == 1 else f"<ul>{items}</ul>"
        lines.append(f'<tr><th scope="row">{_text(name)}</th><td>{cell}</td></tr>')
    head = f"<caption>{_text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{head}{"".join(lines)}</table></div>'


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.header)
    rows = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    return (
        f'<div class="scroll"><table class="numbers"><caption>{_text(table.caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
