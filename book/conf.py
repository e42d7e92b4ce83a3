"""Settings of Sphinx for the book. ``book/build.py`` lays out the pages first; nothing is fetched from a network."""

from __future__ import annotations

import inspect
import pydoc
import re
import sys
from contextlib import suppress
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parent.parent)]

from bibliography import split_entries  # noqa: E402

from p2es_lib import __version__  # noqa: E402

project = "P2Es companion"
author = "The P2Es companion maintainers"
copyright = author  # the name is Sphinx's
release = version = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]

# ----------------------------------------------------------------------------------------------- notebooks and Markdown
# The workflow has executed the notebooks: the book shows what they found, and starts no kernel.
nb_execution_mode = "off"
# Widgets need scripts from a content network, and a kernel: the book has the static figures in their place.
nb_ipywidgets_js = {}
# What cells show as Markdown holds tables and formulas too; the default, plain CommonMark, knows neither.
nb_render_markdown_format = "myst"
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist"]
# The README links to its own headings by the names that GitHub gives them.
myst_heading_anchors = 4

# ---------------------------------------------------------------------------------------------------------- mathematics
# One file that holds its fonts as outlines (MathJax 3.2.2, npm package "mathjax", es5/tex-svg.js, Apache 2.0).
mathjax_path = "mathjax/tex-svg.js"
# Its menu would fetch further files of MathJax, which are not here.
mathjax3_config = {"options": {"enableMenu": False}}

# -------------------------------------------------------------------------------------------------------- API reference
# "set": matplotlib makes one for each subclass of its own, with matplotlib's roles in its docstring.
autodoc_default_options = {"members": True, "show-inheritance": True, "no-value": True, "exclude-members": "set"}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_google_docstring = False
# Types are prose here ("float32 tensor (B, 12, T), mV"): to be read, not to be looked up.
napoleon_use_param = False
napoleon_use_rtype = False
napoleon_use_ivar = True
nitpicky = True
# Our own names must resolve, but for private bases; those of other packages would need inventories from a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!p2es_lib\b).*"), (r"py:class", r"p2es_lib\..*\._\w+")]

# ---------------------------------------------------------------------------------------------------------------- pages
html_theme = "furo"
html_title = f"P2Es companion {__version__}"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_show_sourcelink = html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["figures/README.md"]


def _resolve_reexported(app, env, node, content):
    """Find what a docstring names by the package that re-exports it: it is described in the module that defines it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("p2es_lib."):
        return None
    domain, (package, _, name) = env.get_domain("py"), target.rpartition(".")
    # A constant does not know its module: then the package's modules are searched for it.
    defined = [full for full in domain.objects if full.startswith(f"{package}.") and full.endswith(f".{name}")]
    with suppress(ImportError, AttributeError):
        found = pydoc.locate(target)
        defined.insert(0, f"{found.__module__}.{found.__qualname__}")
    if not defined or defined[0] == target:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, node["reftype"], defined[0], node, content)


def _prepare_docstring(app, what, name, obj, options, lines):
    """What is plain in a terminal and means something else to Sphinx: absolute values, and works one per line."""
    # What Python and torch say of any named tuple and any forward() is news of neither.
    if _BOILERPLATE.match(lines[0] if lines else ""):
        lines.clear()
    if "References" in lines:
        start = lines.index("References") + 2  # behind the underline
        underlines = [row for row in range(start, len(lines)) if re.fullmatch("-{3,}", lines[row])]
        end = underlines[0] - 1 if underlines else len(lines)
        lines[start:end] = [*(f"* {entry}" for entry in split_entries("\n".join(lines[start:end]))), ""]
    if what in ("attribute", "data", "property"):
        # Napoleon takes what precedes a colon in the first line for a type. An escaped line break has none.
        lines.insert(0, "\\")
    # |x - y|, but not in literals.
    lines[:] = [
        "".join(part if part.startswith("``") else part.replace("|", r"\|") for part in _LITERAL.split(line))
        for line in lines
    ]


_BOILERPLATE = re.compile(r"Alias for field number \d+|Define the computation performed at every call\.")
_LITERAL = re.compile(r"(``.*?``)")


def _skip_foreign(app, what, name, obj, skip, options):
    """Leave out what a module imports: some functions of other packages say that they are the module's own."""
    source = getattr(inspect.unwrap(obj), "__code__", None) if callable(obj) else None
    return True if source is not None and "p2es_lib" not in source.co_filename and what == "module" else None


def setup(app):
    app.connect("autodoc-process-docstring", _prepare_docstring, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", _skip_foreign)
    app.connect("missing-reference", _resolve_reexported)
