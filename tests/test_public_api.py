"""The public names, and what importing them does not do."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hessian_probe

pytestmark = pytest.mark.one_precision

ROOT = Path(__file__).parents[1]
API = ROOT / "docs" / "api"


def exported(folder: str) -> list[str]:
    """The names that a package exports: `from .x import y as y` exports y."""
    tree = ast.parse((ROOT / folder / "__init__.py").read_text("utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return sorted(a.asname for node in imports for a in node.names if a.asname == a.name)


EXPORTED = exported("hessian_probe")
TRAINING = exported("hessian_probe/training")
PROBLEMS = [name for name in exported("hessian_probe/problems") if not name.isupper()]
PAGES = "\n".join(page.read_text("utf-8") for page in sorted(API.glob("*.md")))


def test_the_names_of_the_main_job_are_exported():
    results = {"HessianOperator", "EigenResult", "CriticalPoint", "Escape"}
    assert results | {"hessian", "eigsh", "classify", "escape", "problems"} <= set(EXPORTED)


@pytest.mark.parametrize("name", EXPORTED)
def test_every_exported_name_is_documented(name):
    item = getattr(hessian_probe, name)
    own = item.__dict__.get("__doc__") if inspect.isclass(item) else item.__doc__
    assert own, f"{name} has no docstring"
    shown = (f"::: hessian_probe.{name}\n", f"heading: hessian_probe.{name}\n")
    assert any(line in PAGES for line in shown), f"no page in docs/api shows {name}"


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_is_documented(name):
    assert getattr(hessian_probe.problems, name).__doc__
    page = (API / "problems.md").read_text("utf-8")
    assert f"- {name}\n" in page, f"docs/api/problems.md does not list {name}"


@pytest.mark.parametrize("name", TRAINING)
def test_every_hook_is_documented(name):
    assert getattr(hessian_probe.training, name).__doc__
    page = (API / "training.md").read_text("utf-8")
    assert f"::: hessian_probe.training.{name}\n" in page, f"docs/api/training.md does not show {name}"


@pytest.mark.parametrize("name", EXPORTED)
def test_every_option_is_described(name):
    """Each parameter that a caller can name stands in the docstring."""
    item = getattr(hessian_probe, name)
    if not inspect.isfunction(item):
        return
    missing = [p for p in inspect.signature(item).parameters if f"{p}:" not in (item.__doc__ or "")]
    assert not missing


IMPORT_ALONE = """
import os, sys

class NoExtras:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(f"an extra: {{name}}", name=name)

sys.meta_path.insert(0, NoExtras())
import jax
before = dict(jax.config.values), dict(os.environ)
import hessian_probe
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing started a JAX backend"
assert (dict(jax.config.values), dict(os.environ)) == before, "importing changed a setting"
"""
EXTRAS = {
    *("optax", "flax", "equinox", "haiku", "keras", "matplotlib", "sklearn", "pandas", "tqdm"),
    *("rich", "jaxtyping", "beartype", "IPython", "torch", "tensorflow"),
}


def test_import_does_nothing_and_needs_no_extra():
    code = IMPORT_ALONE.format(extras=EXTRAS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
