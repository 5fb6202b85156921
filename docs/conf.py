"""Sphinx: Markdown pages by MyST, API pages from docstrings by autodoc, tables of the spec and of codes by _ext.

uv run --extra executor --group docs sphinx-build -W --keep-going docs docs/_build
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx

import planner

warnings.filterwarnings("ignore", module="megatron")  # what it says of packages that are not installed

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "mimo-planner"
author = "The mimo-planner contributors"
copyright = author  # noqa: A001  Sphinx's name for it
version = release = getattr(planner, "__version__", "")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "plain_docstrings", "reference_tables"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
suppress_warnings: list[str] = []

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
nitpicky = True
nitpick_ignore_regex = [  # has no page here: other projects, type variables, and what users only pass on
    ("py:.*", r"(_pytest|collections|hypothesis|megatron|networkx|os|pathlib|torch)\..*"),
    ("py:.*", r"executor\.(bridge|groups|model)\..*"),
    ("py:.*", r"planner\.layout\.(coords\..*|ir\.(HasRoles|RankSets))"),
    ("py:.*", r"planner\.base\.(frozenmap\.(K|V_co)|errors\.Source)"),
    ("py:class", r"Box|RankSets"),  # imported for annotations only, so that they come without their home
    ("py:exc", r"ExecutorError"),
]
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes as a list: entries of their own would stand beside the properties'
default_role = "code"  # docstrings write `name` as Markdown does
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "mimo-planner"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


def setup(app: Sphinx) -> None:
    app.add_lexer("csv", TextLexer)
