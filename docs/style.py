"""One formatter for exported code: python docs/style.py [--check].

The exporting cells of all notebooks go through `ruff format`, and so all modules do; cells that
teach keep the form their author gave them. Imports of our own modules stand without parentheses,
because nbdev makes only those relative.
"""
from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPORT = re.compile(r"^#\|\s*export\b", re.M)
WRAPPED = re.compile(r"^from (vicmae[\w.]*) import \(\n([^)]*)\)", re.M)


def plain_imports(
    text: str,  # of a cell
) -> str:
    "The cell with each wrapped import of ours on as many lines as it needs, none wrapped."
    def lines(found: re.Match) -> str:
        rows, head = [], f"from {found[1]} import "
        for name in re.findall(r"[\w ]+", found[2].replace("\n", "")):
            if rows and len(rows[-1]) + len(name.strip()) + 2 <= 100:
                rows[-1] += f", {name.strip()}"
            else:
                rows.append(head + name.strip())
        return "\n".join(rows)

    return WRAPPED.sub(lines, text)


def exporting(notebook: dict) -> list[dict]:
    "The cells of a notebook that make its module."
    return [cell for cell in notebook["cells"]
            if cell["cell_type"] == "code" and EXPORT.search("".join(cell["source"]))]


def main(check: bool) -> int:
    "Format, or say which notebooks are not; the exit status."
    places, wrong = sorted((ROOT / "nbs").glob("*.ipynb")), []
    books = {path: json.loads(path.read_text(encoding="utf-8")) for path in places}
    with tempfile.TemporaryDirectory() as folder:
        for path, book in books.items():
            few = {**book, "cells": exporting(book)}
            Path(folder, path.name).write_text(json.dumps(few), encoding="utf-8")
        command = [sys.executable, "-m", "ruff", "format", "--quiet", "--no-cache", "--config",
                   str(ROOT / ".ruff.toml"), folder]
        subprocess.run(command, check=True)
        for path, book in books.items():
            done = json.loads(Path(folder, path.name).read_text(encoding="utf-8"))
            for cell, made in zip(exporting(book), done["cells"]):
                text = plain_imports("".join(made["source"]))
                if text != "".join(cell["source"]):
                    wrong += [path.name] * (path.name not in wrong)
                    cell["source"] = text.splitlines(keepends=True)
            if not check and path.name in wrong:
                text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
                path.write_text(text, encoding="utf-8")
    for name in wrong if check else ():
        print(f"{name}: exported code is not formatted: make notebooks", file=sys.stderr)
    return int(check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
