"""Sphinx configuration. Build: ``python -m sphinx -W --keep-going -b html docs build/docs``; it needs no network."""

import importlib.metadata
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(Path(__file__).parents[1])]

project = "p4d-cache"
author = "the p4d-cache authors"
project_copyright = author
release = importlib.metadata.version("p4d-cache")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "generated_reference"]
exclude_patterns = ["_ext"]
myst_enable_extensions = ["attrs_block", "colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"p4d-cache {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
copybutton_exclude = ".linenos, .gp, .go"

nitpicky = True
# Types of other libraries, and of this one's own inside: their documentation is elsewhere, and a build needs no network.
nitpick_ignore_regex = [("py:.*", ".*")]

default_role = "literal"  # docstrings name code in single backquotes
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
add_module_names = False
