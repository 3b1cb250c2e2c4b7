"""The site's settings; `docs/build.sh` builds it, without a network."""

import os
import re
import sys
from pathlib import Path

import matplotlib as mpl

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

import inventories  # noqa: E402
import registry_tables  # noqa: E402

import sknw  # noqa: E402

mpl.use("agg")
os.environ.setdefault("QUICKSTART_FIGURE", str(HERE / "generated" / "quickstart.png"))

project = "sknw"
author = copyright = "the sknw developers"
version = release = sknw.__version__

extensions = [
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "generated/tables"]
root_doc = "index"
default_role = "obj"
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath", "attrs_inline"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autosummary_generate = True
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()

# Local inventories of the names that are linked to: see inventories.txt.
intersphinx_mapping = inventories.write(HERE / "inventories.txt", HERE / "generated")
intersphinx_timeout = 1

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "doc_module": ("sknw",),
    "backreferences_dir": "generated/backreferences",
    "within_subsection_order": "gallery_order.ReadingOrder",
    "matplotlib_animations": False,
    "image_scrapers": ("matplotlib",),
    "image_srcset": ["2x"],
    "show_memory": False,
    "write_computation_times": False,  # its page loads scripts from elsewhere
    "junit": "example_times.xml",
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": True,
    "abort_on_example_error": True,
    "default_thumb_file": str(HERE / "images" / "quickstart.png"),
}

html_theme = "pydata_sphinx_theme"
html_title = f"sknw {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/logo.svg"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "sknw", "image_light": "_static/logo.svg", "image_dark": "_static/logo.svg"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {
    "index": [],
    "getting_started": [],
    "how_to_choose": [],
    "troubleshooting": [],
    "migration": [],
    "benchmarks": [],
    "design": [],
    "extending": [],
    "changelog": [],
}


def without_last_blank_line(_app, _page, source):
    """Take out the line that ends a doctest in a Markdown page."""
    source[0] = re.sub(r"(^```python\n.*?\n)\n```$", r"\1```", source[0], flags=re.M | re.S)


def setup(app):
    """Write the tables that come from the code's registries."""
    registry_tables.write(HERE / "generated" / "tables")
    app.connect("source-read", without_last_blank_line)
