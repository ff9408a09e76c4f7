"""Errors that are raised on purpose for bad input become the project's own types, in all notebooks.

    python bad_values.py [NBS]      (default: nbs; run it once, when all parts are merged)

In exporting cells `raise ValueError(` becomes `raise BadValue(` and `raise FloatingPointError(`
becomes `raise NotFinite(`; the first exporting cell of the notebook gets the import from
vicmae.figures. In 26_cli the command then softens UserError and OSError alone. Running it twice
changes nothing. Afterwards: nbdev_clean; python docs/badges.py; nbdev_export; ruff check nbs vicmae.
"""
import json
import re
import sys
from pathlib import Path

OWN = {"ValueError": "BadValue", "FloatingPointError": "NotFinite"}
EXPORT = re.compile(r"^#\|\s*export\b", re.M)
SOFT = re.compile(r"(\n *)ours = \(UserError, OSError, ValueError, FloatingPointError\)[^\n]*")


def with_import(text: str, names: set[str]) -> str:
    """A cell of imports with these names of vicmae.figures, in the order of the alphabet."""
    single = re.search(r"^from vicmae\.figures import ([^(\n]+)$", text, re.M)
    if single:
        names = names | {name.strip() for name in single[1].split(",")}
        line = f"from vicmae.figures import {', '.join(sorted(names, key=order))}"
        if len(line) <= 100:
            return text.replace(single[0], line, 1)
    line = f"from vicmae.figures import {', '.join(sorted(names, key=order))}"
    if several := re.search(r"^from vicmae\.figures import \(\n(.*?)\n\)", text, re.M | re.S):
        names = names | set(re.findall(r"\w+", several[1]))
        inside = "\n".join(f"    {name}," for name in sorted(names, key=order))
        return text.replace(several[0], f"from vicmae.figures import (\n{inside}\n)", 1)
    lines = text.split("\n")
    starts = [i for i, t in enumerate(lines) if re.match(r"(from|import) ", t)]
    for i in starts:  # before the first module of ours that comes later in the alphabet
        if lines[i] > line and lines[i].startswith("from vicmae"):
            return "\n".join([*lines[:i], line, *lines[i:]])
    end = 1 + max(starts, default=0)
    while starts and "(" in lines[end - 1] and ")" not in lines[end - 1]:
        end += 1
        if lines[end - 1].strip() == ")":
            break
    ours = any(lines[i].startswith("from vicmae") for i in starts)
    return "\n".join([*lines[:end], *([] if ours else [""]), line, *lines[end:]])


def order(name: str) -> tuple[bool, bool, str]:
    """CONSTANTS, then Classes, then functions, as ruff sorts them."""
    return not name.isupper(), not name[0].isupper(), name


def convert(path: Path) -> int:
    """Change one notebook; returns how many errors were replaced."""
    book = json.loads(path.read_text(encoding="utf-8"))
    cells = [c for c in book["cells"] if c["cell_type"] == "code"
             and EXPORT.search("".join(c["source"]))]
    known, used, count = path.stem != "00_figures", set(), 0
    for cell in cells:
        text = "".join(cell["source"])
        if "class BadValue(" in text:  # in 00_figures itself: from here on the names are there
            known = True
        if not known:
            continue
        for plain, own in OWN.items():
            text, n = re.subn(rf"\braise {plain}\(", f"raise {own}(", text)
            if n:
                used.add(own)
                count += n
        if path.stem == "26_cli":
            text = SOFT.sub(r"\1ours = (UserError, OSError)", text)
        cell["source"] = text.splitlines(keepends=True)
    if used and path.stem != "00_figures":
        first = next(c for c in cells if re.search(r"^(import|from) ", "".join(c["source"]), re.M))
        text = "".join(first["source"])
        here = re.search(r"^from vicmae\.figures import (?:\([^)]*\)|[^(\n]+)", text, re.M)
        lacking = used - set(re.findall(r"\w+", here[0] if here else ""))
        if lacking:
            first["source"] = with_import(text, lacking).splitlines(keepends=True)
    new = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
    if new != path.read_text(encoding="utf-8"):
        path.write_text(new, encoding="utf-8")
        print(f"{path.name}: {count} errors, imports {', '.join(sorted(used)) or 'nothing'}")
    return count


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "nbs")
    print(sum(convert(path) for path in sorted(folder.glob("[0-9]*.ipynb"))), "errors in all")
