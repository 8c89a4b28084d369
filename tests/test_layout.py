"""How the package is laid out, read from the source: directions of imports, circles, names, small files."""

import ast
import runpy
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
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
# A file that only one other of its folder reads is a part of that one where both together have no more lines.
TOGETHER = 400


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


@cache
def text_of(path: Path) -> str:
    return path.read_text("utf-8")


def label(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix().removesuffix(".py")


def is_face(path: Path) -> bool:
    return path.name == "__init__.py"


@cache
def handed_on(face: Path) -> dict[str, Path]:
    """Names that a face hands on, each with the file that defines it."""
    found = {}
    for node in ast.parse(text_of(face)).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hessian_probe."):
            for alias in node.names:
                path = file_of(f"{node.module}.{alias.name}")
                if path is not None:
                    found[alias.asname or alias.name] = path
    return found


@cache
def file_of(name: str) -> Path | None:
    """The file that a full dotted name leads to, through the faces of packages."""
    at = PACKAGE
    for part in name.split(".")[1:]:
        if (at / part).is_dir():
            at = at / part
        elif (at / f"{part}.py").is_file():
            return at / f"{part}.py"
        else:
            return handed_on(at / "__init__.py").get(part, at / "__init__.py")
    return at / "__init__.py" if name.split(".")[0] == "hessian_probe" else None


@cache
def read_by(path: Path) -> frozenset[Path]:
    """Files of the package that a file imports anything from, within functions and for types too."""
    names = absolute_imports(path, ast.walk(ast.parse(text_of(path))))
    found = {file_of(name) for name in names if name.split(".")[0] == "hessian_probe"}
    return frozenset(found - {None, path})


def circles() -> list[set[Path]]:
    """Sets of files that import each other in a loop."""
    reaches = {path: set(read_by(path)) for path in FILES}
    for middle in FILES:
        for path in FILES:
            if middle in reaches[path]:
                reaches[path] |= reaches[middle]
    inside = [path for path in FILES if path in reaches[path]]
    return [
        {other for other in inside if other in reaches[path] and path in reaches[other]} for path in inside
    ]


def test_no_class_name_occurs_twice():
    places = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(text_of(path))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path)
    assert not {name: list(map(label, paths)) for name, paths in places.items() if len(paths) > 1}


def test_no_files_import_each_other():
    assert not [sorted(map(label, circle)) for circle in circles()]


def test_a_file_that_only_one_other_reads_is_a_part_of_it():
    """Within a folder; thresholds, and what the package's own face hands to users, stand for themselves."""
    public = read_by(PACKAGE / "__init__.py")
    readers = defaultdict(set)
    for path in FILES:
        for other in () if path.name in ("__init__.py", "__main__.py") else read_by(path):
            readers[other].add(path)
    found = []
    for path, (*others,) in readers.items():
        if is_face(path) or path in public or path.name == "thresholds.py" or len(others) != 1:
            continue
        lines = sum(len(text_of(each).splitlines()) for each in (path, others[0]))
        if path.parent == others[0].parent and lines <= TOGETHER:
            found.append(f"{label(path)} fits into {label(others[0])}")
    assert not found


def test_guards_that_mutants_take_out_are_in_their_files():
    table = runpy.run_path(str(Path(__file__).with_name("mutants.py")))
    for guard in table["GUARDS"]:
        assert (PACKAGE.parent / guard.file).read_text("utf-8").count(guard.old) == 1, guard.name
        for test in guard.tests.split():
            assert Path(__file__).with_name(f"test_{test}.py").exists(), guard.name
