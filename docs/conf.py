"""Sphinx configuration."""

import shutil
from pathlib import Path

import skgate

# The tutorials are the repository's notebooks; Sphinx reads only what lies beside it.
_here = Path(__file__).parent
shutil.copytree(
    _here.parent / "notebooks",
    _here / "tutorials",
    ignore=shutil.ignore_patterns(".*"),
    dirs_exist_ok=True,
)

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
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = "skgate"
html_show_sourcelink = False

autosummary_generate = True
autodoc_typehints = "none"
numpydoc_show_class_members = False
nb_execution_mode = "off"  # notebooks are committed with their output and run by the tests
myst_enable_extensions = ["dollarmath"]
