"""The Python in the README and in the pages of docs/ runs as it stands."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_precision

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONAL = ("flax", "keras", "matplotlib", "optax", "sklearn")
SLOW = ("derivatives.md", "index.md", "operators.md", "sharpness.md", "training.md")
WITH_CODE = [
    pytest.param(page, id=str(page.relative_to(ROOT)), marks=[pytest.mark.slow] * (page.name in SLOW))
    for page in PAGES
    if FENCE.search(page.read_text("utf-8"))
]


@pytest.mark.any_promotion
@pytest.mark.float32
@pytest.mark.parametrize("page", WITH_CODE)
def test_code_of_page_runs(page, tmp_path, monkeypatch):
    """The blocks of a page run in order in one namespace; an `assert` in a block is a test."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    text = page.read_text("utf-8")
    for block in FENCE.finditer(text):
        line = text.count("\n", 0, block.start(1))
        try:
            exec(compile("\n" * line + block[1], str(page), "exec"), namespace)
        except ImportError as error:
            missing = getattr(error.__cause__ or error, "name", None)
            if missing not in OPTIONAL:
                raise
            pytest.skip(f"the page uses {missing}, which is not installed")
