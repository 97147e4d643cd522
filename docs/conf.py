"""Sphinx configuration."""

import shutil
import sys
from pathlib import Path

import skgate

_here = Path(__file__).parent
sys.path.insert(0, str(_here))

from file_tables import write_tables  # noqa: E402 - from the path above

# The tutorials are the repository's notebooks; Sphinx reads only what lies beside it.
shutil.rmtree(_here / "tutorials", ignore_errors=True)
shutil.copytree(
    _here.parent / "notebooks", _here / "tutorials", ignore=shutil.ignore_patterns(".*")
)
(_here / "generated").mkdir(exist_ok=True)
(_here / "generated" / "file_tables.md").write_text(write_tables(), encoding="utf-8")

project = "skgate"
author = "The skgate developers"
copyright = "2026, the skgate developers"
version = release = skgate.__version__

extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/file_tables.md"]

html_theme = "pydata_sphinx_theme"
html_title = "skgate"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skgate.css"]
html_sidebars = {
    page: [] for page in ("index", "concepts", "whats_new", "architecture", "contributing")
}
html_theme_options = {
    "header_links_before_dropdown": 7,
    "navigation_depth": 2,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
}

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
nb_execution_mode = "off"  # notebooks are committed with their output and run by the tests
myst_enable_extensions = ["dollarmath"]
