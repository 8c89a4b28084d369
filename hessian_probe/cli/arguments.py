"""The command line: what can be asked, and how it is explained."""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

DEFAULT_OUTPUT = Path("hessian-probe-demo")

EXIT_CODES = """\
exit codes:
  0    answered
  1    unexpected error (--debug shows the traceback)
  2    usage or bad input: the message names the file, function or argument
  3    undetermined: the evidence says what an answer would take
  130  interrupted by Ctrl-C; the best answer so far is printed
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
    demo = commands.add_parser(
        "demo",
        help="a network on handwritten digits: stuck, classified, escaped, trained on",
        description=textwrap.fill(
            "Train a small network on scikit-learn's handwritten digits until it stalls at a saddle, "
            "classify the point, escape and train on. Prints a report, and saves it with its figure.",
            78,
        ),
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="DIR",
        help="folder for report.html and figure.png (default: %(default)s)",
    )
    demo.add_argument("--quick", action="store_true", help="take fewer steps after the escape")
    _add_common(demo, "write the page to PATH instead of DIR/report.html")


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    probe = commands.add_parser(
        "probe",
        help="classify the point that a function of yours returns",
        description=PROBE,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    probe.add_argument("target", metavar="FILE.py:FUNCTION", help="the function to call")
    probe.add_argument("--escape", action="store_true", help="also look for a lower loss")
    probe.add_argument("--plan", action="store_true", help="say what it would cost, and stop")
    probe.add_argument("--x64", action="store_true", help="compute in float64; params are converted")
    probe.add_argument(
        "--max-hvps", type=_positive, metavar="N", help="Hessian-vector products allowed (default: 400)"
    )
    probe.add_argument(
        "--save-to",
        type=Path,
        metavar="PATH",
        help="save the job as it goes; called again, go on",
    )
    probe.add_argument("--seed", type=int, metavar="N", help="seed of the random start (default: 0)")
    _add_common(probe, "save the report as one HTML page")


def _add_diagnose(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    diagnose = commands.add_parser(
        "diagnose",
        help="why training is stuck: measured tests on what a function of yours returns",
        description=DIAGNOSE,
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    diagnose.add_argument("target", metavar="FILE.py:FUNCTION", help="the function to call")
    diagnose.add_argument("--seed", type=int, metavar="N", help="seed of random choices (default: 0)")
    _add_common(diagnose, "save the report as one HTML page")


def _add_common(parser: argparse.ArgumentParser, html_help: str) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    parser.add_argument("--html", type=Path, metavar="PATH", help=html_help)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value
