"""`hessian-probe diagnose`: why is the training that a function of the caller's returns stuck?"""

from __future__ import annotations

import argparse
import contextlib

import jax

from hessian_probe.cli.errors import BadInputError, raised_in_loss, told
from hessian_probe.cli.interrupt import Interrupt
from hessian_probe.cli.load import load_arguments
from hessian_probe.cli.progress import Progress
from hessian_probe.diagnosis.diagnose import diagnose as diagnose_training
from hessian_probe.diagnosis.result import Diagnosis
from hessian_probe.display.record import Report, Section

ALLOWED = ("data", "test_data", "history", "optimizer", "opt_state", "apply", "baseline", "budget")


def diagnose(options: argparse.Namespace, progress: Progress, interrupt: Interrupt) -> Report:
    """Run all checks that the returned things allow.

    Args:
        options: the command line.
        progress: told how far it got.
        interrupt: tells whether Ctrl-C was pressed.

    Returns:
        The report; without sections where Ctrl-C came first.

    Raises:
        BadInputError: the target cannot be loaded or probed.
    """
    found: Diagnosis | None = None
    with contextlib.suppress(KeyboardInterrupt):
        arguments = load_arguments(options.target, ALLOWED)
        key = None if options.seed is None else jax.random.key(options.seed)
        progress.stage("measuring")
        try:
            found = diagnose_training(**arguments, key=key)
        except Exception as error:
            if isinstance(error, TypeError | ValueError) or raised_in_loss(error):
                raise BadInputError(f"{options.target}: {told(error)}") from error
            raise
    if found is None or interrupt.heard:
        return Report(f"hessian-probe: {options.target}", "Interrupted before anything was known.", ())
    sections = (
        Section("diagnosis", "Findings", results=(("diagnosis", found),)),
        Section("measured", "What was measured", facts=found.measured),
    )
    return Report(f"hessian-probe: {options.target}", f"{found.findings[0].claim}.", sections)
