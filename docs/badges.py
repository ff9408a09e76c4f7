"""Write into each notebook its Colab badge and first cell, and into the index the map of notebooks.

Everything follows from settings.ini and from titles; a second run changes nothing.
`python docs/badges.py` writes, `python docs/badges.py --check` only says what is out of step.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from project import BADGE, ROOT, Page, Settings, pages, parts, settings, source  # noqa: E402

MARK = "# Only on Google Colab: "  # opens the second line of the cell; by it the cell is found
MAP = ("<!-- map of the notebooks: python docs/badges.py -->", "<!-- end of the map -->")
CELL = """#| hide
# Only on Google Colab: install {name} and fetch its samples (minutes). Elsewhere it does nothing.
import sys
if "google.colab" in sys.modules:
    import os, subprocess
    if not os.path.isdir("../data_samples"):
        if not os.path.isdir("{name}"):
            subprocess.run("git clone --quiet --depth 1 --branch {branch} "
                           "{git_url} {name}".split(), check=True)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet",
                        "./{name}"{extra}], check=True)
        os.chdir("{name}/nbs")"""


def badge(
    cfg: Settings,
    stem: str,  # of the notebook
) -> str:
    "The badge of a notebook, in Markdown."
    return f"[![Open in Colab]({BADGE})]({cfg.colab_url(f'nbs/{stem}.ipynb')})"


def colab_cell(
    cfg: Settings,
) -> str:
    "Source of the cell that makes a notebook run on Colab."
    extra = "".join(f', "{requirement}"' for requirement in cfg.colab_requirements)
    return CELL.format(name=cfg.name, branch=cfg.branch, git_url=cfg.git_url, extra=extra)


def is_badge(
    line: str,
) -> bool:
    "Whether a line of the first cell is a Colab badge, of this or another repository."
    return line.startswith("[![Open in Colab](")


def is_colab_cell(
    cell: dict,
) -> bool:
    "Whether a cell is the one that this script writes."
    lines = source(cell).splitlines()
    return cell["cell_type"] == "code" and any(line.startswith(MARK) for line in lines[:2])


def with_badge(
    text: str,  # first cell
    line: str,  # the badge
) -> str:
    "First cell with the badge in a paragraph of its own under title and subtitle."
    lines = text.split("\n")
    kept = [i for i, old in enumerate(lines) if is_badge(old)]
    if kept:
        return "\n".join([*lines[:kept[0]], line, *lines[kept[0] + 1:]])
    end = next(i for i, old in enumerate(lines) if old.startswith("> ")) + 1
    return "\n".join([*lines[:end], "", line, *lines[end:]])


def updated_notebook(
    raw: str,  # the notebook file
    stem: str,
    cfg: Settings,
) -> str:
    "The notebook file with its badge and its Colab cell; every other byte as it was."
    notebook = json.loads(raw)
    if to_json(notebook) != raw:
        raise ValueError(f"{stem}.ipynb is not as nbdev_clean writes it: run nbdev_clean first")
    first, rest = notebook["cells"][0], notebook["cells"][1:]
    first["source"] = with_badge(source(first), badge(cfg, stem)).splitlines(keepends=True)
    old = [cell for cell in rest if is_colab_cell(cell)]
    identity = hashlib.sha1(f"colab {stem}".encode()).hexdigest()[:8]
    cell = {"cell_type": "code", "execution_count": None, "id": identity, "metadata": {},
            "outputs": [], "source": colab_cell(cfg).splitlines(keepends=True)}
    others = [c for c in rest if not is_colab_cell(c)]
    if old:
        cell["id"] = old[0]["id"]
    return to_json({**notebook, "cells": [first, cell, *others]})


def to_json(
    notebook: dict,
) -> str:
    "A notebook as nbdev writes it."
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def notebook_map(
    every: list[Page],  # in reading order
) -> str:
    "The map of all notebooks in Markdown: a line a part, a link a notebook."
    lines = []
    for part, members in parts(every).items():
        names = [page.stem.replace("_solutions_", "_").replace("_", " ") for page in members]
        links = [f"[{name}](../nbs/{page.stem}.ipynb)" for name, page in zip(names, members)]
        rooms = {page.module.rpartition(".")[0] for page in members} - {""}
        room = f" (`{rooms.pop()}/`)" if len(rooms) == 1 else ""
        lines.append(f"- **{part}**{room}: {' · '.join(links)}")
    return "\n".join(lines)


def updated_index(
    raw: str,  # index.ipynb
    cfg: Settings,
    every: list[Page],
) -> str:
    "The index with its map of the notebooks, its Colab links and its clone command written anew."
    notebook, found = json.loads(raw), 0
    pattern = re.compile(re.escape(MAP[0]) + r".*?" + re.escape(MAP[1]), re.S)
    text = f"{MAP[0]}\n\n{notebook_map(every)}\n\n{MAP[1]}"
    for cell in notebook["cells"]:
        new, count = pattern.subn(lambda _: text, source(cell))
        new = re.sub(r"https://colab\.research\.google\.com/github/[^)\s]+/blob/[^)\s]+?/(nbs/\w+"
                     r"\.ipynb)", lambda m: cfg.colab_url(m[1]), new)
        new = re.sub(r"git clone http\S+\ncd \S+",
                     f"git clone {cfg.git_url}\ncd {cfg.folder}", new)
        found += count
        cell["source"] = new.splitlines(keepends=True)
    if found != 1:
        raise ValueError(f"index.ipynb: {found} places for the map, between {MAP[0]} and {MAP[1]}")
    return to_json(notebook)


def update(
    root: Path = ROOT,  # project folder with settings.ini and nbs/
    write: bool = True,  # False: only say which would change
    index_only: bool = False,  # leave the numbered notebooks alone
) -> list[str]:  # names of the notebooks that were out of step
    "Bring badges, Colab cells and the map in step with settings.ini."
    cfg, changed = settings(root), []
    every = pages(cfg.nbs)
    for path in sorted(cfg.nbs.glob("*.ipynb")):
        raw = path.read_text(encoding="utf-8")
        if path.stem == "index":
            new = updated_index(raw, cfg, every)
        else:
            new = raw if index_only else updated_notebook(raw, path.stem, cfg)
        if new != raw:
            changed.append(path.name)
            if write:
                path.write_text(new, encoding="utf-8")
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if out of step")
    parser.add_argument("--index", action="store_true", help="only the map in index.ipynb")
    args = parser.parse_args()
    try:
        changed = update(write=not args.check, index_only=args.index)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(f"{'out of step' if args.check else 'updated'}: {name}" for name in changed))
    raise SystemExit(bool(changed) and args.check)


if __name__ == "__main__":
    main()
