"""The site: ``make site`` builds it, ``docs/index.md`` is its first page.

Sphinx reads the checkout from its root, pages and executed notebooks where they lie. So a link between two files leads
to the same place in the site as in the repository, but for links to what only the site builds (``BUILT``).
"""

import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "k-Sparse Autoencoders, replicated"
root_doc = "docs/index"
highlight_language = "none"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
include_patterns = ["README.md", "docs/*", "data/README.md", "results/*/notebooks/*.ipynb", "results/*/tables/*.md"]
exclude_patterns = [".*", "results/*/runs", "results/local", "results/smoke"]
suppress_warnings = ["toc.not_included"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
myst_url_schemes = {"http": None, "https": None, "site": "{{path}}"}
nb_execution_mode = "off"
nb_ipywidgets_js: dict[str, Any] = {}
nb_merge_streams = True

napoleon_use_ivar = True
viewcode_follow_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "undoc-members": False}

html_theme = "furo"
html_title = project
html_favicon = "icon.svg"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_math_renderer = "mathml"

BUILT = {"../explorer/": "../explorer.html", "../ksae_lib/templates/": "../units.html"}
"""Pages that only the site has: the folder of their sources, to which pages link, and the page, as from ``docs/``."""


def correct_links(app: Sphinx, page: str, source: list[str]) -> None:
    """Lead links to the sources of a page to the page."""
    for there, here in BUILT.items():
        source[0] = source[0].replace(f"]({there})", f"](site:{here})")


def escape(app: Sphinx, kind: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Keep reStructuredText from reading ``|x|`` as a substitution, and an attribute ``x_`` as a link."""
    bars = [line if "``" in line else line.replace("|", r"\|") for line in lines]
    lines[:] = [re.sub(r"^(:ivar \w+)_:", r"\1\_:", line) for line in bars]


def link_names(app: Sphinx, tree: nodes.document) -> None:
    """Lead each name of the library that a page has as code to its documentation."""
    for literal in list(tree.findall(nodes.literal)):
        name = literal.astext()
        if name.startswith("ksae_lib.") and not isinstance(literal.parent, pending_xref | nodes.reference):
            link = pending_xref("", refdomain="py", reftype="obj", reftarget=name, refdoc=app.env.docname)
            literal.replace_self(link)
            link += literal


def write_formula(translator: Any, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers show without any script."""
    block = isinstance(node, nodes.math_block)
    formula = convert(node.astext(), display="block" if block else "inline")
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def make_accessible(out: Path) -> None:
    """Give captions of the menu their level, and let the keyboard scroll wide code."""
    for path in out.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        text = text.replace('role="heading">', 'role="heading" aria-level="2">')
        path.write_text(text.replace("<pre>", '<pre tabindex="0">'), encoding="utf-8")


def finish(app: Sphinx, error: Exception | None) -> None:
    """Put the explorer and the units of a trained coder into the site, and a first page that leads to its index."""
    if error is not None:
        return
    from explorer.build import main as build_explorer
    from ksae_lib import load_pretrained
    from replication.data import load_data
    from replication.data.base import DataConfig

    out, data = Path(app.outdir), load_data(DataConfig())
    make_accessible(out)
    build_explorer(["--out", str(out / "explorer.html")])
    load_pretrained("mnist-k25").report(data.test_x, out / "units.html", y=data.test_y, image_shape=data.image_shape)
    head = f'<title>{project}</title><link rel="icon" href="_static/icon.svg">'
    lead = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
    (out / "index.html").write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{head}{lead}')


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("source-read", correct_links)
    app.connect("autodoc-process-docstring", escape)
    app.connect("doctree-read", link_names)
    app.connect("build-finished", finish)
