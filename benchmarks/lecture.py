"""Run the notebook about the lecture; write its figures, and what its cells print, into the documents.

Run as `python -m benchmarks.lecture` (or `make lecture`): some minutes.  A cell whose id begins with
"fig-" gives docs/assets/lecture-….png; what the cell "name" prints stands in docs/lecture.md between
`<!-- cell: name -->` and `<!-- end -->`.
"""

import base64
import io
import re
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "03_why_is_training_stuck.ipynb"
PAGE = ROOT / "docs" / "lecture.md"
COLOURS = 128  # keeps each picture below 100 kB
SLOT = re.compile(r"(<!-- cell: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def executed() -> Any:
    """The notebook with its outputs; prints the seconds that each cell takes."""
    begun = time.perf_counter()

    def report(cell: Any, **_: Any) -> None:
        print(f"{time.perf_counter() - begun:7.1f} s  {cell['id']}", file=sys.stderr, flush=True)

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return NotebookClient(notebook, timeout=900, kernel_name="python3", on_cell_executed=report).execute()


def printed(cell: Any) -> str:
    """What a cell printed and returned, as text."""
    parts = [out["text"] for out in cell["outputs"] if out.get("name") == "stdout"]
    parts += [out["data"]["text/plain"] for out in cell["outputs"] if out["output_type"] == "execute_result"]
    return "\n".join(part.rstrip("\n") for part in parts)


def main() -> int:
    """Execute and write."""
    cells = {cell["id"]: cell for cell in executed()["cells"] if cell["cell_type"] == "code"}
    for name, cell in cells.items():
        pictures = [out["data"]["image/png"] for out in cell["outputs"] if "image/png" in out.get("data", {})]
        if name.startswith("fig-") and pictures:
            path = ROOT / "docs" / "assets" / f"lecture-{name.removeprefix('fig-')}.png"
            picture = Image.open(io.BytesIO(base64.b64decode(pictures[0]))).convert("RGB")
            picture.quantize(COLOURS).save(path, optimize=True)
            print(f"{path.relative_to(ROOT)}  {path.stat().st_size / 1000:.0f} kB")
    for name, cell in cells.items():
        if printed(cell):
            print(f"\n[{name}]\n{printed(cell)}")
    text = PAGE.read_text("utf-8")
    PAGE.write_text(SLOT.sub(lambda m: f"{m[1]}```text\n{printed(cells[m[2]])}\n```\n{m[3]}", text), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
