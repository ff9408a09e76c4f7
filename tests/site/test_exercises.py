"""Notebooks with a module end with exercises, and each has its solution, run and stored."""
import json
import re
from functools import lru_cache
from pathlib import Path

import pytest

NBS = Path(__file__).resolve().parents[2] / "nbs"
TIME = re.compile(r"\([^()]*\b(?:minutes?|hours?)\b[^()]*\)")  # (ten minutes), (half an hour)
FEWER = {"161_cli": 2, "070_foreign": 2, "060_folder": 2, "071_checkpoints": 2,
         "062_config": 2, "162_main": 1}  # least number of exercises, if not three


def read(path: Path) -> list[dict]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells]


def has_module(path: Path) -> bool:
    return any(re.search(r"^#\|\s*default_exp ", cell["source"], re.M) for cell in read(path)
               if cell["cell_type"] == "code")


# Doors, where there is nothing to work out, and notebooks whose neighbour has exercises on both.
WITHOUT = ("007_errors", "009_charts", "011_worldfiles", "031_packets", "063_session",
           "073_feature_store", "075_vectors", "090_layouts", "096_transfer", "104_build",
           "121_film", "160_front_door")
NOTEBOOKS = [p for p in sorted(NBS.glob("[0-9]*.ipynb")) if has_module(p) and p.stem not in WITHOUT]
SOLUTIONS = [p for p in sorted(NBS.glob("[0-9]*.ipynb")) if "_solutions_" in p.stem]
SPECS = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]


def exercises(path: Path) -> tuple[dict[int, str], str]:
    """Number -> text of the exercises at a notebook's end, and the text behind their heading."""
    found = [cell["source"] for cell in read(path) if cell["cell_type"] == "markdown"
             and re.search(r"^##+ Exercises$", cell["source"], re.M)]
    assert len(found) == 1, f"{len(found)} headings 'Exercises'"
    text = re.split(r"^##+ Exercises$", found[0], flags=re.M)[1]
    items = re.findall(r"^(\d+)\. (.*(?:\n(?!\d+\. |\n|Solutions:).*)*)", text, re.M)
    return {int(number): item for number, item in items}, text


@lru_cache
def solved(path: Path) -> dict[tuple[str, int], bool]:
    """(notebook, number of the exercise) -> whether code with a stored output belongs to it."""
    done, section, number, shared = {}, None, None, False
    for cell in read(path):
        if cell["cell_type"] == "code":
            if number is None:  # before a section's first marker: serves all of its exercises
                shared = shared or bool(cell["outputs"])
            elif cell["outputs"]:
                done[section, number] = True
            continue
        for line in cell["source"].splitlines():
            if heading := re.match(r"## (\d{3}_\w+)$", line):
                section, number, shared = heading[1], None, False
            elif marker := re.match(r"\*\*(\d+)\.\*\*", line):
                number = int(marker[1])
                done.setdefault((section, number), shared)
    return done


@pytest.mark.parametrize("path", SPECS)
def test_exercises_say_how_long_they_take(path: Path) -> None:
    items, _ = exercises(path)
    assert FEWER.get(path.stem, 3) <= len(items) <= 5, f"{len(items)} exercises"
    assert list(items) == list(range(1, len(items) + 1)), f"numbered {list(items)}"
    timeless = [number for number, item in items.items() if not TIME.search(item)]
    assert not timeless, f"no time in brackets, such as (ten minutes): exercises {timeless}"


@pytest.mark.parametrize("path", SPECS)
def test_exercises_have_solutions_that_ran(path: Path) -> None:
    items, text = exercises(path)
    link = re.search(r"^Solutions: \[[^]]*\]\(([^)#]+)#([^)]+)\)", text, re.M)
    assert link, "no line 'Solutions: [name](name.ipynb#NN_name)'"
    assert link[2] == path.stem and NBS / link[1] in SOLUTIONS, f"the link leads to {link[0]}"
    done = solved(NBS / link[1])
    missing = [number for number in items if (path.stem, number) not in done]
    assert not missing, f"{link[1]} has no solution to {missing}"
    silent = [number for number in items if not done[path.stem, number]]
    assert not silent, f"{link[1]} stores no output for {silent}"


@pytest.mark.parametrize("path", SOLUTIONS, ids=[path.stem for path in SOLUTIONS])
def test_solutions_belong_to_an_exercise(path: Path) -> None:
    for name, number in solved(path):
        assert name and (NBS / f"{name}.ipynb").exists(), f"solution {number} under {name}"
        if has_module(NBS / f"{name}.ipynb"):
            items, _ = exercises(NBS / f"{name}.ipynb")
            assert number in items, f"{name} has no exercise {number}"
