"""The examples in the docstrings give what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

# Examples are written for users, who leave JAX's promotion as it is.
pytestmark = [pytest.mark.one_precision, pytest.mark.any_promotion]

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "hessian_probe").rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_give_what_they_show(module):
    found = doctest.testmod(importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
