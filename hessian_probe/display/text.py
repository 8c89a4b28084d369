"""A report in plain text, for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from hessian_probe.display.record import Report, Result, Section, Table, summary_of

WIDTH = 88


def to_text(report: Report, *, width: int = WIDTH) -> str:
    """Write a report as plain text in lines of at most `width` characters; longer words are not broken."""
    blocks = [f"{report.title}\n{'=' * min(len(report.title), width)}"]
    blocks.append(_paragraph(report.summary, width))
    for section in report.sections:
        blocks.extend(_section(section, width))
    if report.footer:
        blocks.append(_paragraph(report.footer, width))
    return "\n\n".join(block for block in blocks if block)


def result_text(result: Result, *, width: int = WIDTH) -> str:
    """Write one result: its title, then its rows with long lines wrapped."""
    title, rows = summary_of(result)
    return "\n".join([title, *_rows(rows, width)])


def _section(section: Section, width: int) -> list[str]:
    blocks = [f"{section.title}\n{'-' * min(len(section.title), width)}"]
    blocks.extend(_paragraph(text, width) for text in section.text)
    if section.facts:
        blocks.append("\n".join(_rows(section.facts, width)))
    blocks.extend(result_text(result, width=width) for _, result in section.results)
    if section.table is not None:
        blocks.append(_table(section.table, width))
    return blocks


def _paragraph(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)


def _rows(rows: Iterable[tuple[str, str]], width: int) -> list[str]:
    """Names in a column, their texts beside them; a name that repeats is written once."""
    rows = list(rows)
    names = [name for name, _ in rows]
    column = max(map(len, names), default=0) + 4
    lines, last = [], ""
    for name, text in rows:
        lines.append(
            textwrap.fill(
                text,
                width,
                initial_indent=f"  {'' if name == last else name}".ljust(column),
                subsequent_indent=" " * (column + 2 * (names.count(name) > 1)),
                break_long_words=False,
                break_on_hyphens=False,
            )
        )
        last = name
    return lines


def _table(table: Table, width: int) -> str:
    cells = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.header))]
    lines = ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in cells]
    rule = "  ".join("-" * w for w in widths)
    body = [lines[0], rule, *lines[1:]]
    return "\n".join([_paragraph(table.caption, width), *("  " + line for line in body)])
