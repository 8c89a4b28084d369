"""Puts the notebooks, as they are stored with their outputs, into the site."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter


def _notebooks(config: MkDocsConfig) -> list[Path]:
    return sorted((Path(config.config_file_path).parent / "notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add a section for the notebooks, when there are any, before the reference."""
    pages = [f"notebooks/{path.stem}.md" for path in _notebooks(config)]
    if pages and config.nav is not None:
        config.nav.insert(3, {"Notebooks": pages})
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add one page for each notebook, and the pictures that it shows."""
    for path in _notebooks(config):
        resources = {"output_files_dir": f"{path.stem}_files"}
        text, resources = MarkdownExporter().from_filename(str(path), resources)
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files
