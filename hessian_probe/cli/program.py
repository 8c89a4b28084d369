"""Run a command, say what came of it, and end with the right exit code."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

import hessian_probe
from hessian_probe.cli.commands import demo, diagnose, probe
from hessian_probe.cli.errors import BadInputError, told
from hessian_probe.cli.interrupt import Interrupt
from hessian_probe.cli.progress import Progress
from hessian_probe.display.document import to_json
from hessian_probe.display.figure import png_bytes, require_matplotlib
from hessian_probe.display.record import Report
from hessian_probe.display.report import save_html
from hessian_probe.display.text import to_text
from hessian_probe.results import printable

ANSWERED, UNEXPECTED, BAD_INPUT, UNDETERMINED, INTERRUPTED = 0, 1, 2, 3, 130

DEFAULT_OUTPUT = Path("hessian-probe-demo")

EXIT_CODES = """\
exit codes:
  0    answered
  1    unexpected error (--debug shows the traceback)
  2    usage or bad input: the message names the file, function or argument
  3    undetermined: the evidence says what an answer would take
  130  interrupted by Ctrl-C; the best answer so far is printed
"""

DEMO = """\
Train a small network on scikit-learn's handwritten digits until it stalls at a
saddle, classify the point, escape and train on. Prints a report, and saves it with
its figure.
"""

PROBE = """\
Classify the point that a function of yours returns.

FILE.py:FUNCTION names a function without arguments that returns (loss, params),
(loss, params, data), or a dict with these keys:

    def stuck():                        # in train.py
        return loss, params, batches    # loss(params, batch) -> mean over the batch

    hessian-probe probe train.py:stuck --escape
"""


DIAGNOSE = """\
Find out why training is stuck: measured tests, ranked by evidence.

FILE.py:FUNCTION names a function without arguments that returns a dict with loss and
params, and what else there is; the more, the more is checked:

    def stuck():                        # in train.py
        return {"loss": loss, "params": params, "data": batches, "test_data": (x, y),
                "optimizer": optimizer, "opt_state": opt_state, "apply": apply,
                "history": {"loss": losses}}

    hessian-probe diagnose train.py:stuck
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `hessian-probe` on the command line without the program's name; return one of EXIT_CODES."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
    except SystemExit as end:  # argparse has printed help, or what is wrong
        return int(end.code or 0)
    if options.version:
        print(f"hessian-probe {hessian_probe.__version__}")
        return ANSWERED
    if options.command is None:
        parser.print_help(sys.stderr)
        return BAD_INPUT
    try:
        return _run(options)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNEXPECTED
    except BadInputError as error:
        return _failed(options, str(error), BAD_INPUT, hint=error.__cause__ is not None)
    except Exception as error:
        return _failed(options, f"unexpected error: {told(error)}", UNEXPECTED)


def _run(options: argparse.Namespace) -> int:
    """Run the command; print and save its report."""
    _check_folder(options.html)
    start, progress = time.perf_counter(), Progress(sys.stderr)
    command = {"demo": demo, "probe": probe, "diagnose": diagnose}[options.command]
    # What the caller's file prints must not get into a JSON document.
    aside = contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()
    with Interrupt() as interrupt, aside:
        try:
            report = command(options, progress, interrupt)
        finally:
            progress.close()
    code = INTERRUPTED if interrupt.heard else _code(report)
    report = dataclasses.replace(report, footer=_footer(time.perf_counter() - start))
    if options.json:
        _print_json(options, code, to_json(report))
    else:
        print(printable(to_text(report)))
    _save(options, report)
    return code


def _code(report: Report) -> int:
    if any(section.key in ("plan", "diagnosis") for section in report.sections):
        return ANSWERED
    unknown = report.point is None or report.point.label == "undetermined"
    stuck = report.escape is not None and report.escape.status == "undetermined"
    return UNDETERMINED if unknown or stuck else ANSWERED


def _footer(seconds: float) -> str:
    return (
        f"hessian_probe {hessian_probe.__version__}, jax {jax.__version__} on {jax.default_backend()}, "
        f"{seconds:.1f} s with compilation."
    )


def _print_json(options: argparse.Namespace, code: int, content: dict[str, Any]) -> None:
    head = {"hessian_probe": hessian_probe.__version__, "command": options.command, "exit_code": code}
    print(json.dumps({**head, **content}, indent=2, allow_nan=False))


def _check_folder(path: Path | None) -> None:
    """Refuse before the work, not after it, a page that cannot be saved."""
    if path is not None and not path.parent.is_dir():
        raise BadInputError(f"--html {path}: there is no folder {str(path.parent)!r}")


def _save(options: argparse.Namespace, report: Report) -> None:
    """Save the page, and of the demo the figure."""
    paths = []
    page: Path | None = options.html
    try:
        if options.command == "demo" and report.has_figure:
            page = page or options.output / "report.html"
            paths.append(options.output / "figure.png")
            paths[0].write_bytes(png_bytes(report))
        if page is not None:
            paths.append(page)
            save_html(_drawable(report), page)
    except OSError as error:
        raise BadInputError(f"{paths[-1]} cannot be written: {error.strerror or error}") from error
    if paths:
        print(f"\nsaved: {', '.join(map(str, paths))}", file=sys.stderr if options.json else sys.stdout)


def _drawable(report: Report) -> Report:
    """Leave out the figure where matplotlib is missing, and say so."""
    try:
        require_matplotlib()
    except ImportError as error:
        footer = f"{report.footer} No figure: {error}."
        return dataclasses.replace(report, curves=(), spectra=(), profile=None, footer=footer)
    return report


def _failed(options: argparse.Namespace, said: str, code: int, *, hint: bool = True) -> int:
    """Tell what went wrong."""
    if options.debug:
        traceback.print_exc()
    more = "\n(--debug shows the traceback)" if hint and not options.debug else ""
    print(f"hessian-probe {options.command}: {said}{more}", file=sys.stderr)
    if options.json:
        _print_json(options, code, {"error": said})
    return code


def build_parser() -> argparse.ArgumentParser:
    """Make the parser of `hessian-probe`."""
    parser = argparse.ArgumentParser(
        prog="hessian-probe",
        description="Say what kind of point training stopped at, how sure that is, why, and how to get out.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_probe(commands)
    _add_diagnose(commands)
    return parser


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = _command(
        commands,
        "demo",
        "a network on handwritten digits: stuck, classified, escaped, trained on",
        DEMO,
        "write the page to PATH instead of DIR/report.html",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="folder for report.html and figure.png (default: %(default)s)",
    )
    demo.add_argument("--quick", action="store_true", help="take fewer steps after the escape")


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    probe = _command(commands, "probe", "classify the point that a function of yours returns", PROBE)
    probe.add_argument("target", metavar="FILE.py:FUNCTION", help="the function to call")
    probe.add_argument("--escape", action="store_true", help="also look for a lower loss")
    probe.add_argument("--plan", action="store_true", help="say what it would cost, and stop")
    probe.add_argument("--x64", action="store_true", help="compute in float64; params are converted")
    probe.add_argument(
        "--max-hvps", type=_positive, metavar="N", help="Hessian-vector products allowed (default: 400)"
    )
    probe.add_argument(
        "--save-to", type=Path, metavar="PATH", help="save the job as it goes; called again, go on"
    )
    probe.add_argument("--seed", type=int, metavar="N", help="seed of the random start (default: 0)")


def _add_diagnose(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    aim = "why training is stuck: measured tests on what a function of yours returns"
    diagnose = _command(commands, "diagnose", aim, DIAGNOSE)
    diagnose.add_argument("target", metavar="FILE.py:FUNCTION", help="the function to call")
    diagnose.add_argument("--seed", type=int, metavar="N", help="seed of random choices (default: 0)")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help: str,
    description: str,
    html_help: str = "save the report as one HTML page",
) -> argparse.ArgumentParser:
    """A command with the options that all of them have."""
    parser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--html", type=Path, metavar="PATH", help=html_help)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value
