"""The direction of imports, read from the source."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_precision

PACKAGE = Path(__file__).parents[1] / "hessian_probe"
ROOMS = (
    "arrays",
    "results",
    "programs",
    "operators",
    "jobs",
    "spectrum",
    "points",
    "escapes",
    "planning",
    "optimizers",
    "flatness",
    "training",
    "diagnosis",
    "display",
    "demo",
    "cli",
)
# What each room may import from the package; a room may also import itself.
ALLOWED = {room: set(ROOMS[:i]) for i, room in enumerate(ROOMS)}
ALLOWED["display"] = {"arrays", "results"}  # and the `result` of any room
ALLOWED["problems"] = {"arrays"}
ALLOWED["demo"] |= {"problems"}
ALLOWED["cli"] |= {"problems"}
CORE = {"hessian_probe", "jax", "jaxlib", "numpy", "scipy"} | sys.stdlib_module_names
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def absolute_imports(path: Path, nodes) -> Iterator[str]:
    """Full dotted names of all that the nodes import."""
    package = ("hessian_probe", *path.relative_to(PACKAGE).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = room_of(path)
    assert room in ALLOWED, f"{room} is a new room: give it a place in ROOMS"
    names = absolute_imports(path, ast.walk(ast.parse(path.read_text("utf-8"))))
    own = [name.split(".") for name in names if name.split(".")[0] == "hessian_probe"]
    if room == "display":
        own = [parts for parts in own if parts[2:3] != ["result"]]
    wrong = {parts[1] for parts in own if len(parts) > 1} - ALLOWED[room] - {room}
    assert not wrong, f"{room} may import {sorted(ALLOWED[room])}, not {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_extras_are_imported_where_they_are_used(path):
    """At module level there are only the core's dependencies and the standard library."""
    body = ast.parse(path.read_text("utf-8")).body
    outside = {name.split(".")[0] for name in absolute_imports(path, body)} - CORE
    assert not outside


def test_the_reader_of_imports_resolves_relative_names():
    source = "from .. import arrays\nfrom .kernel import run\nfrom ..results import R\nimport jax"
    found = list(absolute_imports(PACKAGE / "spectrum" / "solve.py", ast.parse(source).body))
    assert found == [
        "hessian_probe.arrays",
        "hessian_probe.spectrum.kernel.run",
        "hessian_probe.results.R",
        "jax",
    ]
