"""Sphinx settings; names come from settings.ini, pages from build.py."""
import inspect
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from docutils import nodes

from build import ROOT, mathjax_file, public_names, rst
from project import pages, settings

cfg = settings(ROOT)
names = public_names(ROOT / cfg.name, pages(cfg.nbs))
project, author, release, version = cfg.name, cfg.author, cfg.version, cfg.version
copyright = cfg.copyright
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
html_theme = "sphinx_book_theme"
html_title = cfg.name
html_css_files = ["site.css"]
html_favicon = html_logo = str(Path(__file__).resolve().parent / "logo.svg")
html_copy_source = html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "repository_url": cfg.git_url, "repository_branch": cfg.branch, "path_to_docs": "nbs",
    "use_repository_button": True, "use_download_button": False, "home_page_in_toc": False,
    "show_navbar_depth": 1, "show_toc_level": 2, "logo": {"text": f"{cfg.name} {cfg.version}"},
}
pygments_style = "default"
smartquotes = False  # `--resume` must not become a dash
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "attrs_block"]
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # a notebook may begin a section with a third-level heading
if mathjax_file():
    mathjax_path = "mathjax.js"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "all"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False


# ---------------------------------------------------------------- comments behind the arguments
def field_comments(cls) -> dict[str, str]:
    "The comments behind the fields of a class, as in `size: int  # pixels a side`."
    try:
        lines = inspect.getsource(cls).splitlines()
    except (OSError, TypeError):
        return {}
    found = (re.match(r"    (\w+): [^#]*#\s*(.+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def comments(obj) -> dict[str, str]:
    "What the source says about each argument, field and returned value."
    from fastcore.docments import docments
    obj = inspect.unwrap(obj) if callable(obj) else obj
    target = obj.__init__ if inspect.isclass(obj) and "__init__" in vars(obj) else obj
    if inspect.isclass(obj) and (hasattr(obj, "_fields") or hasattr(obj, "__dataclass_fields__")):
        return field_comments(obj)
    try:
        said = docments(target)
    except (OSError, TypeError, ValueError, SyntaxError):
        return {}
    return {name: " ".join((text or "").split()) for name, text in said.items()
            if name not in ("self", "args", "kwargs") and (text or name != "return")}


def explain(app, what, name, obj, options, lines) -> None:
    "A docstring as reStructuredText, and under it a line for each argument."
    home = ".".join(name.split(".")[:2])  # vicmae.model.masking

    def link(word: str) -> str | None:
        word = word.removesuffix("()")
        full = names.get(word) or (f"{home}.{word}" if f"{home}.{word}" in names.values() else None)
        return None if full == name else full

    lines[:] = [rst(line, link) for line in lines]
    if what not in ("function", "method", "class"):
        return
    said = comments(obj)
    fields = [f":param {arg}: {rst(text, link)}".rstrip()
              for arg, text in said.items() if arg != "return"]
    if "return" in said and what != "class":
        fields.append(f":returns: {rst(said['return'], link)}")
    if fields:
        lines += ["", *fields, ""]


def one_line_for_returns(app, domain, objtype, content) -> None:
    "Type and meaning of what is returned, in one line, as those of the arguments are."
    for field_list in content.findall(nodes.field_list):
        fields = {field[0].astext(): field for field in field_list}
        if {"returns", "rtype"} <= fields.keys() and len(fields["returns"][1]):
            text = nodes.emphasis("", re.sub(r"~[\w.]*\.", "", fields["rtype"][1].astext()))
            fields["returns"][1][0].insert(0, [nodes.Text("("), text, nodes.Text(") – ")])
            field_list.remove(fields["rtype"])


def setup(app) -> None:
    "Called by Sphinx."
    app.connect("autodoc-process-docstring", explain)
    app.connect("object-description-transform", one_line_for_returns, priority=900)
