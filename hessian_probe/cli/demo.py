"""`hessian-probe demo`: run the demonstration and gather what was found."""

from __future__ import annotations

import argparse
import contextlib

from hessian_probe.cli.errors import BadInputError
from hessian_probe.cli.interrupt import Interrupt
from hessian_probe.cli.progress import Progress
from hessian_probe.demo.digits import Story, run
from hessian_probe.demo.lecture import lecture_section
from hessian_probe.demo.report import report
from hessian_probe.display.figure import require_matplotlib
from hessian_probe.display.record import Report, Section


def demo(options: argparse.Namespace, progress: Progress, interrupt: Interrupt) -> Report:
    """Run the lecture's example and the digits.

    Args:
        options: the command line.
        progress: told how far it got.
        interrupt: tells whether Ctrl-C was pressed.

    Returns:
        The report, as far as it got.

    Raises:
        BadInputError: an extra is missing, or the folder for the output cannot be made.
    """

    def stage(text: str) -> None:
        _stop_if_heard(interrupt)
        progress.stage(text)

    def tell(text: str) -> None:
        _stop_if_heard(interrupt)
        progress(text)

    lecture: Section | None = None
    story = Story()
    try:
        require_matplotlib()
        options.output.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(KeyboardInterrupt):
            stage("the lecture's example: w = (0, 0) of (1 - w1 w2)^2")
            lecture = lecture_section()
            run(story, quick=options.quick, stage=stage, progress=tell)
    except ImportError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise BadInputError(f"--output {options.output}: {error.strerror or error}") from error
    return report(lecture, story)


def _stop_if_heard(interrupt: Interrupt) -> None:
    """End what follows a search that caught Ctrl-C and returned its best answer."""
    if interrupt.heard:
        raise KeyboardInterrupt
