"""What site, first page and badges must know: names from settings.ini, pages from nbs/."""
from __future__ import annotations

import configparser
import json
import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# A part of the book begins at this notebook: a new one falls into its part by its number.
PARTS = [("000", "Figures and errors"), ("010", "What is learned from"), ("020", "The model"),
         ("030", "Real files"), ("050", "Training"), ("060", "A run"), ("070", "The backbone"),
         ("080", "Pretraining"), ("090", "Evaluation"), ("100", "Fine-tuning"),
         ("120", "Seeing and touching"), ("130", "On a cluster"),
         ("140", "The laboratory"),
         ("160", "Two doors: Python and the command"), ("170", "Why it works"),
         ("190", "Tutorials and solutions")]
BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
THUMBS = "nbs/images/thumbs"


class Settings(NamedTuple):
    """The names of the project, as settings.ini says them."""

    name: str
    version: str
    description: str
    author: str
    copyright: str
    branch: str
    git_url: str
    nbs: Path
    out: Path  # where the site is built
    colab_requirements: list[str]  # what the first cell installs on Colab beside the package
    placeholder: str  # what is still to be decided, as settings.ini says; "": nothing

    def file_url(self, path: str) -> str:
        "Address of a file or folder of the repository."
        return f"{self.git_url}/blob/{self.branch}/{path}"

    @property
    def folder(self) -> str:
        "Name of the folder that a clone makes."
        return self.git_url.rstrip("/").split("/")[-1]

    def colab_url(self, path: str) -> str:
        "Address that opens a notebook of the repository on Colab."
        owner = re.sub(r"^https://github\.com/", "", self.git_url)
        return f"https://colab.research.google.com/github/{owner}/blob/{self.branch}/{path}"


class Page(NamedTuple):
    """A notebook as a reader meets it."""

    stem: str  # 020_masking
    title: str
    subtitle: str
    module: str  # "" where it writes none
    part: str  # "" for the index


def settings(
    root: Path = ROOT,  # folder with settings.ini
) -> Settings:
    "Read settings.ini, the one place for names."
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(root / "settings.ini", encoding="utf-8")
    cfg = parser["DEFAULT"]
    # Colab has its own ipywidgets, and loads no others: only what it lacks is installed there.
    extra = [r for r in cfg["explore_requirements"].split() if r.startswith("anywidget")]
    return Settings(cfg["lib_name"], cfg["version"], cfg["description"], cfg["author"],
                    cfg["copyright"], cfg["branch"], cfg["git_url"], root / cfg["nbs_path"],
                    root / cfg["doc_path"], extra, cfg.get("placeholder", ""))


def source(
    cell: dict,  # of a notebook file
) -> str:
    "The text of a cell."
    return "".join(cell["source"])


def read_notebook(
    path: Path,  # .ipynb
) -> dict:
    "A notebook file as its JSON."
    return json.loads(path.read_text(encoding="utf-8"))


def part_of(
    stem: str,  # 092_labelled
) -> str:  # one of PARTS
    "The part of the book that a notebook belongs to, from its number."
    number = stem.split("_")[0]
    starts = [name for first, name in PARTS if first <= number]
    if not number.isdigit() or not starts:
        raise ValueError(f"nbs/{stem}.ipynb: the name must begin with three digits, as 020_masking")
    return starts[-1]


def read_page(
    path: Path,  # .ipynb
) -> Page:
    "Title, subtitle, module and part of a notebook."
    cells = read_notebook(path)["cells"]
    match = re.match(r"# (.+)\n+> (.+)", source(cells[0]))
    if not match:
        raise ValueError(f"{path.name}: the first cell must be '# Title' and '> one sentence'")
    names = re.findall(r"^#\|\s*default_exp\s+([\w.]+)", "\n".join(map(source, cells)), re.M)
    part = "" if path.stem == "index" else part_of(path.stem)
    return Page(path.stem, match[1].strip(), match[2].strip(), (names or [""])[0], part)


def pages(
    nbs: Path,  # folder of the notebooks
) -> list[Page]:  # in reading order, without the index
    "All numbered notebooks."
    return [read_page(path) for path in sorted(nbs.glob("*.ipynb")) if path.stem != "index"]


def parts(
    every: list[Page],  # in reading order
) -> dict[str, list[Page]]:
    "The table of contents: parts in order, each with its notebooks; no part is empty."
    found: dict[str, list[Page]] = {}
    for page in every:
        found.setdefault(page.part, []).append(page)
    return found
