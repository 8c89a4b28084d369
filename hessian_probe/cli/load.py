"""FILE.py:FUNCTION becomes a loss, parameters and, if there are any, data."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from hessian_probe.cli.errors import BadInputError, told

EXPECTED = "(loss, params), (loss, params, data) or a dict with these keys"


class Target(NamedTuple):
    """What to probe, and what to call it."""

    name: str
    loss: Callable[..., Any]
    params: Any
    data: Any


def load_target(text: str) -> Target:
    """Call the function that FILE.py:FUNCTION names.

    The file is run as a module of its own with its folder on the path, as `python FILE.py` would.

    Args:
        text: FILE.py:FUNCTION.

    Returns:
        What the function returned.

    Raises:
        BadInputError: the file or the function does not exist, fails, or returns something else.
    """
    return Target(text, *_unpack(text, _returned(text)))


def load_arguments(text: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Call the function that FILE.py:FUNCTION names; it returns keywords.

    Args:
        text: FILE.py:FUNCTION.
        allowed: names that may stand beside loss and params.

    Returns:
        What the function returned.

    Raises:
        BadInputError: the file or the function does not exist, fails, or returns something else.
    """
    returned = _returned(text)
    expected = f"a dict with loss, params and any of {', '.join(allowed)}"
    if not isinstance(returned, Mapping):
        raise BadInputError(f"{text} returned {type(returned).__name__}; expected {expected}")
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


def _unpack(text: str, returned: Any) -> tuple[Callable[..., Any], Any, Any]:
    if isinstance(returned, Mapping):
        keys = set(returned)
        if {"loss", "params"} <= keys <= {"loss", "params", "data"}:
            return returned["loss"], returned["params"], returned.get("data")
        raise BadInputError(f"{text} returned a dict with keys {sorted(map(str, keys))}; expected {EXPECTED}")
    if isinstance(returned, tuple) and len(returned) in (2, 3):
        loss, params, *data = returned
        return loss, params, data[0] if data else None
    size = f" of {len(returned)}" if isinstance(returned, tuple) else ""
    raise BadInputError(f"{text} returned {type(returned).__name__}{size}; expected {EXPECTED}")
