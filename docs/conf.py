"""Sphinx configuration."""

import skgate

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
