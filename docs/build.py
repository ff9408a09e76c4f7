"""Build the site: notebooks with their stored outputs, a page for each module, search.

`python docs/build.py [--out _docs]`. Nothing is executed; a broken link is an error.
"""
from __future__ import annotations

import argparse
import posixpath
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from badges import MAP, is_badge, is_colab_cell, to_json  # noqa: E402
from project import (ROOT, THUMBS, Page, Settings, pages, parts, read_notebook,  # noqa: E402
                     settings, source)

HERE = Path(__file__).resolve().parent
DIRECTIVE = re.compile(r"^#\|\s*(.*?)\s*$", re.M)
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
WIDGETS = ("application/vnd.jupyter.widget-view+json", "application/vnd.jupyter.widget-state+json")
# A link or a code span in prose; what lies inside a link, code or a formula stays as it is.
SPANS = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|\[[^\]]*\]\([^)]*\)|`[^`\n]+`", re.S)


# ---------------------------------------------------------------- one notebook
def strip_directives(
    text: str,  # source of a code cell
) -> tuple[str, list[str]]:
    "A cell without its `#| ...` lines, and what they said."
    found = DIRECTIVE.findall(text)
    return re.sub(r"^#\|[^\n]*\n?", "", text, flags=re.M).strip("\n"), found


def shown_output(
    output: dict,  # as stored
) -> dict | None:
    "An output as a page can show it: of a widget only its stored picture is left."
    data = {k: v for k, v in output.get("data", {}).items() if k not in WIDGETS}
    if "data" not in output:
        return output
    if any(kind.startswith("image/") for kind in data):
        data = {k: v for k, v in data.items() if k.startswith("image/")}
    elif data.keys() < output["data"].keys():
        return None  # a widget without a picture
    return {**output, "data": data}


def code_cell(
    cell: dict,
) -> dict | None:
    "A code cell for the site; None where readers need not see it."
    if is_colab_cell(cell):
        return None
    text, said = strip_directives(source(cell))
    if "hide" in said or not text:
        return None
    tags = ["exported"] if any(re.match(r"export\w*\b", what) for what in said) else []
    tags += [what for what in said if what in ("slow", "cuda")]
    tags += ["hide-input"] if any(re.match(r"code-fold:\s*true", w) for w in said) else []
    outputs = [shown for out in cell["outputs"] if (shown := shown_output(out))]
    title = re.search(r"title=f?[\"']([^\"'{}]{8,})[\"']", text)
    image = {"alt": title[1] if title else "A picture made by the code above"}
    return {**cell, "source": text, "outputs": outputs,
            "metadata": {"tags": tags, "mystnb": {"image": image}}}


def fixed_target(
    target: str,  # as written in a notebook
    cfg: Settings,
    copied: set[str],  # files that the site carries, relative to nbs/
) -> str:
    "A link of a notebook as the site needs it; a file that is not there is an error."
    if re.match(r"[a-z]+:|#", target):
        return target
    path, _, anchor = target.partition("#")
    inside = posixpath.normpath(posixpath.join("nbs", path))  # from the root of the project
    if not (cfg.nbs.parent / inside).exists():
        raise ValueError(f"a notebook links to {target}, which does not exist")
    if inside.startswith("nbs/") and inside.endswith((".ipynb", ".png", ".jpg", ".gif", ".svg")):
        if not inside.endswith(".ipynb"):
            copied.add(inside.removeprefix("nbs/"))
        return inside.removeprefix("nbs/") + (f"#{anchor}" if anchor else "")
    return cfg.file_url(inside) + (f"#{anchor}" if anchor else "")


def prose(
    text: str,  # of a Markdown cell
    cfg: Settings,
    names: dict[str, str],  # public name -> module.name
    linked: set[str],  # names that have a link on this page: one is enough
    copied: set[str],
) -> str:
    "Markdown with links that hold on the site, and a first mention of a function linked to it."
    def one(match: re.Match) -> str:
        span = match[0]
        if span.startswith("["):
            return LINK.sub(lambda m: m[1] + fixed_target(m[2], cfg, copied) + m[3], span)
        name = span.strip("`").removesuffix("()")
        if span.startswith("`") and name in names and name not in linked:
            linked.add(name)
            return f"{{py:obj}}`{span.strip('`')} <{names[name]}>`"
        return span
    # The picture of a badge lies on another server: here its words are enough.
    text = re.sub(r"\[!\[Open in Colab\]\([^)]*\)\]", "[Open in Colab]", text)
    return SPANS.sub(one, text)


def header(
    page: Page,
    cfg: Settings,
) -> str:
    "The line under the subtitle: Colab, source, API."
    file = f"nbs/{page.stem}.ipynb"
    links = [f"[Open in Colab]({cfg.colab_url(file)})", f"[Notebook]({cfg.file_url(file)})"]
    if page.module:
        links.append(f"[`{full_name(page, cfg)}`](api/{page.module}.rst)")
    return "{.where}\n" + " · ".join(links)


def first_cell(
    text: str,
    line: str,  # in the place of the badge
) -> str:
    "Title and subtitle, and under them a line of links."
    lines = text.split("\n")
    end = next(i for i, old in enumerate(lines) if old.startswith("> ")) + 1
    return "\n".join([*lines[:end], "", line, "", *lines[end:]])


def site_notebook(
    path: Path,
    page: Page | None,  # None: the index
    cfg: Settings,
    names: dict[str, str],
    copied: set[str],
) -> str:  # JSON
    "A notebook as the site shows it."
    notebook, cells = read_notebook(path), []
    # Names that the notebook itself is about to define are not linked: they are on the page.
    own = full_name(page, cfg) if page else ""
    linked = {name for name, full in names.items() if full.rpartition(".")[0] == own}
    for index, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            cell = code_cell(cell)
        else:
            lines = source(cell).split("\n")
            text = "\n".join(line for line in lines if not (page and is_badge(line)))
            text = prose(text, cfg, names, linked, copied)
            if index == 0 and page:
                text = first_cell(text, header(page, cfg))
            cell = {**cell, "source": text}
        if cell:
            cells.append(cell)
    return to_json({**notebook, "cells": cells})


# ---------------------------------------------------------------- the other pages
def cards(
    cfg: Settings,
    every: list[Page],
) -> str:
    "The map of the notebooks on the first page of the site: cards, as HTML."
    blocks = []
    for part, members in parts(every).items():
        found = []
        for page in members:
            picture = f'<img src="_static/thumbs/{page.stem}.jpg" alt="" loading="lazy">'
            number = page.stem.split("_")[0]
            sentence = re.sub("`(.+?)`", r"<code>\1</code>", escape(page.subtitle))
            found.append(f'<a class="card" href="{page.stem}.html">{picture}<span><b>{number} · '
                         f"{escape(page.title)}</b>{sentence}</span></a>")
        blocks.append(f"### {part}\n\n" + '<div class="cards">\n' + "\n".join(found) + "\n</div>")
    return "\n\n".join(blocks)


def toctrees(
    every: list[Page],
) -> str:
    "The navigation: a caption for each part, the API last."
    blocks = []
    for part, members in parts(every).items():
        entries = "\n".join(f"{page.stem.split('_')[0]} {page.title} <{page.stem}>"
                            for page in members)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {part}\n\n{entries}\n```")
    blocks.append("```{toctree}\n:hidden:\n:caption: API\n\napi/index\n```")
    return "\n\n".join(blocks)


def site_index(
    cfg: Settings,
    every: list[Page],
    names: dict[str, str],
    copied: set[str],
) -> str:  # JSON
    "The first page: index.ipynb, its map as cards, and the navigation."
    notebook = read_notebook(cfg.nbs / "index.ipynb")
    pattern = re.compile(re.escape(MAP[0]) + ".*?" + re.escape(MAP[1]), re.S)
    mark = "MAP-OF-NOTEBOOKS"
    for cell in notebook["cells"]:
        text = pattern.sub(mark, source(cell))
        cell["source"] = prose(text, cfg, names, set(), copied).replace(mark, cards(cfg, every))
    notebook["cells"].append({"cell_type": "markdown", "id": "toctrees", "metadata": {},
                              "source": toctrees(every)})
    return to_json(notebook)


def full_name(
    page: Page,
    cfg: Settings,
) -> str:
    "Name under which a module is imported: the package itself is `__init__`."
    return cfg.name if page.module == "__init__" else f"{cfg.name}.{page.module}"


def module_page(
    page: Page,
    cfg: Settings,
) -> str:  # reStructuredText
    "A page for the public names of a module."
    full = full_name(page, cfg)
    here = " recipe" if full == cfg.name else ""  # the other names have pages of their own
    return (f"{full}\n{'=' * len(full)}\n\n"
            f".. container:: where\n\n   Written, step by step, in :doc:`../{page.stem}`.\n\n"
            f".. automodule:: {full}\n   :members:{here}\n")


def api_index(
    cfg: Settings,
    every: list[Page],
) -> str:  # reStructuredText
    "The list of modules, in the order of reading and importing."
    rows = "".join(f"   * - :doc:`{full_name(p, cfg)} <{p.module}>`\n     - {rst(p.subtitle)}\n"
                   for p in every if p.module)
    entries = "".join(f"   {p.module}\n" for p in every if p.module)
    return ("API\n===\n\nModules in the order of reading and importing: one uses only those above "
            "it.\n\n.. list-table::\n   :class: modules\n\n" + rows
            + "\n.. toctree::\n   :hidden:\n\n" + entries)


def rst(
    text: str,  # as docstrings here are written: plain, with `code`
    link=None,  # function from a name to its full name, or None
) -> str:
    "Plain text with `code` as reStructuredText."
    done = []
    for i, piece in enumerate(re.split(r"`+([^`\n]+)`+", text)):
        if i % 2 == 0:
            done.append(re.sub(r"([\\*|_])", r"\\\1", piece))
        else:
            full = link(piece) if link else None
            done.append(f":py:obj:`{piece} <{full}>`" if full else f"``{piece}``")
    return "".join(done)


def public_names(
    package: Path,  # folder with the modules
    every: list[Page],
) -> dict[str, str]:
    "Public names that one module alone has, and that no word of prose is: name -> module.name."
    found: dict[str, list[str]] = {}
    for page in every:
        if page.module in ("", "__init__"):
            continue
        text = (package / f"{page.module.replace('.', '/')}.py").read_text(encoding="utf-8")
        names = re.search(r"^__all__ = \[(.*?)\]", text, re.M | re.S)
        for name in re.findall(r"'(\w+)'", names[1] if names else ""):
            found.setdefault(name, []).append(f"{page.module}.{name}")
            found.setdefault(f"{page.module}.{name}", []).append(f"{page.module}.{name}")
    telling = {n: full[0] for n, full in found.items() if len(full) == 1
               and re.search(r"_|\.|[a-z][A-Z]|^[A-Z]{2}", n)}
    return {name: f"{package.name}.{full}" for name, full in telling.items()}


# ---------------------------------------------------------------- all of it
def write_sources(
    folder: Path,  # where the pages for Sphinx go
    root: Path = ROOT,
) -> int:  # number of pages
    "Write every page that Sphinx reads; files that did not change keep their time."
    cfg = settings(root)
    every = pages(cfg.nbs)
    names = {n: full for n, full in public_names(root / cfg.name, every).items()}
    copied: set[str] = set()
    files = {"index.ipynb": site_index(cfg, every, prose_names(names, cfg), copied),
             "api/index.rst": api_index(cfg, every)}
    for page in every:
        files[f"{page.stem}.ipynb"] = site_notebook(
            cfg.nbs / f"{page.stem}.ipynb", page, cfg, prose_names(names, cfg), copied)
        if page.module:
            files[f"api/{page.module}.rst"] = module_page(page, cfg)
    made = {name: text.encode() for name, text in files.items()}
    made |= {name: (cfg.nbs / name).read_bytes() for name in copied}
    made |= {f"_static/thumbs/{path.name}": path.read_bytes()
             for path in (root / THUMBS).glob("*.jpg")}
    made |= {f"_static/{path.name}": path.read_bytes()
             for path in HERE.iterdir() if path.suffix in (".css", ".svg")}
    if mathjax := mathjax_file():
        made["_static/mathjax.js"] = mathjax.read_bytes()
    for old in [p for p in folder.rglob("*") if p.is_file()]:
        if old.relative_to(folder).as_posix() not in made:
            old.unlink()
    for name, data in made.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return len(files)


def prose_names(
    names: dict[str, str],
    cfg: Settings,
) -> dict[str, str]:
    "Names to link in prose: also as vicmae.module.name."
    return {**names, **{full: full for full in names.values()}}


def mathjax_file() -> Path | None:
    "MathJax as one file, from the package that carries it; None: the site loads it from a CDN."
    from importlib.metadata import PackageNotFoundError, files
    try:
        found = [f for f in files("sphinx-mathjax-offline") or [] if f.name == "tex-svg.js"]
    except PackageNotFoundError:
        return None
    return Path(found[0].locate()) if found else None


def build(
    out: Path,  # the site
    work: Path,  # sources and Sphinx's memory of the last build
    jobs: str = "auto",  # processes that read and write pages
    root: Path = ROOT,
) -> int:  # pages written by this project
    "Write the sources and let Sphinx make HTML of them; warnings are errors."
    count = write_sources(work / "source", root)
    static = f"html_static_path={work / 'source' / '_static'}"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-j", jobs, "-b", "html",
               "-c", HERE, "-d", work / "doctrees", "-D", static, work / "source", out]
    done = subprocess.run([str(part) for part in command], cwd=root)
    if done.returncode:
        raise SystemExit(done.returncode)
    shutil.rmtree(out / "_sources", ignore_errors=True)  # the notebooks themselves are linked
    shutil.rmtree(out.parent / "jupyter_execute", ignore_errors=True)  # myst-nb's copies
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=settings().out)
    parser.add_argument("--work", type=Path, default=ROOT / "_proc" / "docs")
    parser.add_argument("--jobs", default="auto")
    args = parser.parse_args()
    try:
        count = build(args.out.resolve(), args.work.resolve(), args.jobs)
    except ValueError as error:
        raise SystemExit(f"docs: {error}") from None
    print(f"{count} pages: open {args.out}/index.html")
    if what := settings().placeholder:
        print(f"note: {what!r} in settings.ini is a placeholder, and so is every link to "
              f"{settings().git_url}: decide it before this is published")


if __name__ == "__main__":
    main()
