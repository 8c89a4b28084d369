"""What the commands do: `hessian-probe probe`, `demo` and `diagnose`.

Each takes the command line, something that is told how far it got, and whether Ctrl-C was pressed, and
returns a report of as much as it got to.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessian_probe.cli.errors import BadInputError, refused_as_bad_input, told
from hessian_probe.cli.interrupt import Interrupt
from hessian_probe.cli.progress import Progress
from hessian_probe.demo.digits import Story, run
from hessian_probe.demo.report import lecture_section, report
from hessian_probe.diagnosis.diagnose import diagnose as diagnose_training
from hessian_probe.diagnosis.result import Diagnosis
from hessian_probe.display.figure import require_matplotlib
from hessian_probe.display.record import Report, Section, Spectrum, spectrum_at
from hessian_probe.display.words import outcome, verdict
from hessian_probe.escapes.escape import escape
from hessian_probe.escapes.profile import loss_profile
from hessian_probe.escapes.result import Escape, LossProfile
from hessian_probe.planning.plan import plan
from hessian_probe.planning.result import Plan
from hessian_probe.points.classify import classify
from hessian_probe.points.result import CriticalPoint
from hessian_probe.results import number


def probe(options: argparse.Namespace, progress: Progress, interrupt: Interrupt) -> Report:
    """Classify, escape if asked, and gather what was found."""
    point: CriticalPoint | None = None
    move: Escape | None = None
    profile: LossProfile | None = None
    with precision(options.x64), contextlib.suppress(KeyboardInterrupt):
        target = _load(options)
        if options.plan:
            return _planned(options, _checked(target, plan, max_hvps=options.max_hvps))
        key = None if options.seed is None else jax.random.key(options.seed)
        asked = {"key": key, "max_hvps": options.max_hvps, "save_to": options.save_to}
        point = _checked(target, classify, progress=progress, **asked)
        if options.escape and not interrupt.heard:
            move = _checked(target, escape, point=point, progress=progress)
        if options.html is not None and not interrupt.heard:
            profile = loss_profile(target.loss, target.params, target.data, point=point, move=move)
    return _report(options, point, move, profile, progress.last if interrupt.heard else "")


def precision(x64: bool) -> contextlib.AbstractContextManager[Any]:
    """64-bit numbers within the context alone, if asked for."""
    if not x64:
        return contextlib.nullcontext()
    # Older releases have it in jax.experimental, newer ones in jax alone.
    home: Any = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    return home.enable_x64(True)


def _load(options: argparse.Namespace) -> Target:
    target = load_target(options.target)
    if not options.x64:
        return target

    def widen(leaf: Any) -> Any:
        real = hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
        return jnp.asarray(leaf, jnp.float64) if real else leaf

    return target._replace(params=jax.tree.map(widen, target.params))


def _checked(target: Target, verb: Callable[..., Any], **keywords: Any) -> Any:
    """Call a verb on the target; what it refuses is bad input."""
    with refused_as_bad_input(target.name):
        return verb(target.loss, target.params, target.data, **keywords)


def _planned(options: argparse.Namespace, found: Plan) -> Report:
    time = "an unknown time" if found.seconds is None else f"about {number(found.seconds, 2)} s"
    fits = "It fits" if found.fits else "It does not fit"
    return Report(
        title=f"hessian-probe: {options.target}",
        summary=f"{fits} in memory, and takes {time} and about {found.num_hvps} products.",
        sections=(Section("plan", "The plan", results=(("plan", found),)),),
    )


def _report(
    options: argparse.Namespace,
    point: CriticalPoint | None,
    move: Escape | None,
    profile: LossProfile | None,
    interrupted: str,
) -> Report:
    said = [f"Interrupted; it had got to: {interrupted}."] if interrupted else []
    sections = []
    if point is not None:
        said.append(verdict(point, advice=move is None))
        sections.append(Section("point", "The point", results=(("point", point),)))
    if move is not None:
        said.append(outcome(move))
        sections.append(Section("escape", "The way out", results=(("escape", move),)))
    return Report(
        title=f"hessian-probe: {options.target}",
        summary=" ".join(said) or "Interrupted before anything was known.",
        sections=tuple(sections),
        point=point,
        escape=move,
        spectra=_spectra(point),
        profile=profile,
    )


def _spectra(point: CriticalPoint | None) -> tuple[Spectrum, ...]:
    if point is None or not len(point.lowest.eigenvalues):
        return ()
    return (spectrum_at("here", point.lowest, point.highest, zero_band=point.zero_band),)


def demo(options: argparse.Namespace, progress: Progress, interrupt: Interrupt) -> Report:
    """Run the lecture's example and the digits."""

    def heeding(show: Callable[[str], None]) -> Callable[[str], None]:
        def say(text: str) -> None:
            if interrupt.heard:  # a search has caught Ctrl-C and returned its best answer: end what follows
                raise KeyboardInterrupt
            show(text)

        return say

    stage = heeding(progress.stage)

    lecture: Section | None = None
    story = Story()
    try:
        require_matplotlib()
        options.output.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(KeyboardInterrupt):
            stage("the lecture's example: w = (0, 0) of (1 - w1 w2)^2")
            lecture = lecture_section()
            run(story, quick=options.quick, stage=stage, progress=heeding(progress))
    except ImportError as error:
        raise BadInputError(str(error)) from error
    except OSError as error:
        raise BadInputError(f"--output {options.output}: {error.strerror or error}") from error
    return report(lecture, story)


ALLOWED = ("data", "test_data", "history", "optimizer", "opt_state", "apply", "baseline", "trial_factor")


def diagnose(options: argparse.Namespace, progress: Progress, interrupt: Interrupt) -> Report:
    """Run all checks that the returned things allow."""
    found: Diagnosis | None = None
    with contextlib.suppress(KeyboardInterrupt):
        arguments = load_arguments(options.target, ALLOWED)
        key = None if options.seed is None else jax.random.key(options.seed)
        progress.stage("measuring")
        with refused_as_bad_input(options.target):
            found = diagnose_training(**arguments, key=key)
    if found is None or interrupt.heard:
        return Report(f"hessian-probe: {options.target}", "Interrupted before anything was known.", ())
    sections = (
        Section("diagnosis", "Findings", results=(("diagnosis", found),)),
        Section("measured", "What was measured", facts=found.measured),
    )
    return Report(f"hessian-probe: {options.target}", f"{found.findings[0].claim}.", sections)


# FILE.py:FUNCTION becomes a loss, parameters and, if there are any, data.

EXPECTED = "(loss, params), (loss, params, data) or a dict with these keys"


class Target(NamedTuple):
    """What to probe, and what to call it."""

    name: str
    loss: Callable[..., Any]
    params: Any
    data: Any


def load_target(text: str) -> Target:
    """Call the function that FILE.py:FUNCTION names; it returns what to probe."""
    returned = _returned(text)
    if isinstance(returned, tuple) and len(returned) in (2, 3):
        returned = dict(zip(("loss", "params", "data"), returned, strict=False))
    given = _arguments(text, returned, ("data",), EXPECTED)
    return Target(text, given["loss"], given["params"], given.get("data"))


def load_arguments(text: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Call the function that FILE.py:FUNCTION names; it returns loss, params and any of `allowed`."""
    expected = f"a dict with loss, params and any of {', '.join(allowed)}"
    return _arguments(text, _returned(text), allowed, expected)


def _arguments(text: str, returned: Any, allowed: tuple[str, ...], expected: str) -> dict[str, Any]:
    """The dict that a function returned, if it holds loss, params and any of `allowed`."""
    if not isinstance(returned, Mapping):
        size = f" of {len(returned)}" if isinstance(returned, tuple) else ""
        raise BadInputError(f"{text} returned {type(returned).__name__}{size}; expected {expected}")
    if not {"loss", "params"} <= set(returned) <= {"loss", "params", *allowed}:
        keys = sorted(map(str, returned))
        raise BadInputError(f"{text} returned a dict with keys {keys}; expected {expected}")
    return dict(returned)


def _returned(text: str) -> Any:
    file, colon, name = text.rpartition(":")
    if not colon or not file or not name.isidentifier():
        raise BadInputError(f"expected FILE.py:FUNCTION, got {text!r}")
    path = Path(file)
    if not path.is_file():
        raise BadInputError(f"there is no file {file!r}")
    function = _function(_run_file(path), path, name)
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise BadInputError(f"{text} raised {told(error)}") from error


def _run_file(path: Path) -> ModuleType:
    """Run a file as a module of its own with its folder on the path, as `python FILE.py` would."""
    module_name = f"_hessian_probe_target_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise BadInputError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise BadInputError(f"running {path} raised {told(error)}") from error
    return module


def _function(module: ModuleType, path: Path, name: str) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if callable(function):
        return function
    if hasattr(module, name):
        raise BadInputError(f"{name} in {path} is of type {type(function).__name__}, not a function")
    own = [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    there = f"it has {', '.join(own)}" if own else "it has none"
    raise BadInputError(f"{path} has no function {name!r}; {there}")
