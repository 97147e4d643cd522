"""Sphinx configuration."""

import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

import skgate

_here = Path(__file__).parent
sys.path.insert(0, str(_here))

from file_tables import write_tables  # noqa: E402 - from the path above

# The tutorials are the repository's notebooks; Sphinx reads only what lies beside it.
shutil.rmtree(_here / "tutorials", ignore_errors=True)
shutil.copytree(
    _here.parent / "notebooks", _here / "tutorials", ignore=shutil.ignore_patterns(".*")
)
for notebook in (_here / "tutorials").glob("*.ipynb"):
    text = notebook.read_text(encoding="utf-8")
    notebook.write_text(text.replace("](../docs/", "](../"), encoding="utf-8")
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
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/file_tables.md"]

html_theme = "pydata_sphinx_theme"
html_title = "skgate"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skgate.css"]
html_favicon = "_static/logo_light.svg"
html_sidebars = {
    page: [] for page in ("index", "concepts", "whats_new", "architecture", "contributing")
}
html_theme_options = {
    "logo": {
        "text": "skgate",
        "alt_text": "",  # the text beside it says it
        "image_light": "_static/logo_light.svg",
        "image_dark": "_static/logo_dark.svg",
    },
    "header_links_before_dropdown": 5,
    "navigation_depth": 2,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": [],
}

autosummary_generate = True
autosummary_context = {
    "pictures": {
        name: re.sub(r"\B([A-Z])", r"_\1", name.removesuffix("Display")).lower()
        for name in skgate.inspection.__all__
    }
}
autodoc_typehints = "none"
numpydoc_show_class_members = False
nb_execution_mode = "off"  # notebooks are committed with their output and run by the tests
myst_enable_extensions = ["dollarmath"]

# Copy what is typed: no prompts and no output.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_selector = "div:not(.highlight-text, .output) > div.highlight pre"


def prepare_images(app: Sphinx, doctree: nodes.document) -> None:
    """Keep images as bright in dark mode, and give a picture of 200 dpi half its pixels."""
    for image in doctree.findall(nodes.image):
        image["classes"].append("dark-light")
        path = Path(app.srcdir, image["uri"])
        in_card = "sd-card-img-top" in image["classes"]
        if path.match("images/*.png") and not in_card:
            with Image.open(path) as picture:
                image["width"] = f"{picture.width * 100 / picture.info['dpi'][0]:.0f}px"


def setup(app: Sphinx) -> None:
    """Prepare every page."""
    app.connect("doctree-read", prepare_images)
