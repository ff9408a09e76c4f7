"""Move the tests into rooms: unit, processes, faults, site; support and tools beside them.

Run in the root of a tree, with the project's Python:  python move_tests.py [--check]
It git-mv's, rewrites imports, paths and mentions, writes tests/support/__init__.py and clips.py, the
marker `slow`, groups of tests that share a set-up, and `make test-slow`. It works on what it finds
(names and patterns, no line numbers), says what it could not place, and ends with ruff and with
pytest's collection. Nothing is committed.
"""
import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path.cwd()
TESTS = ROOT / "tests"
SUPPORT = ("waiting", "browser", "faulty", "fuzz_inputs", "ranks")
TOOLS = ("kills", "layouts", "fuzz", "variations", "slurm_trial")
ROOMS = {
    "processes": "distributed pretrain finetune launch world runfolder trainer resume old_run",
    "faults": "faults fuzz",
    "site": "docs project wheel notebooks exercises lab explore",
}  # whatever else is called test_*.py, and starts no ranks, is a unit test
UNIT = "classifier evaluate"  # one test of each starts ranks, which makes no other of the file

# Tests that cost most for what they alone can find; substrings of node ids. By what they start, not
# yet by seconds: look at the 25 slowest at the end of a quiet `make test`, then edit.
SLOW = [
    "test_docs.py::test_site",  # the whole site; .github/workflows/docs.yml builds it, too
    "test_docs.py::test_colab_cell_installs",  # a clone and a pip install
    "test_wheel.py::test_installed_wheel_shows",  # the wheel pretrains in `make test`
    "test_shipped.py::test_recorded_accuracy_is_measured_again[tiny64]",  # tiny stays
    "test_distributed.py::test_loss_and_gradients_equal_the_whole_batch[4-",  # 1 and 2 ranks stay
    "test_watch.py::test_a_million_rows",
]
# Files whose tests share one costly set-up: all of them go to one worker (xdist_group).
GROUPED = ["test_fuzz", "test_shipped", "test_wheel", "test_explore", "test_mislead", "test_show",
           "test_correspondence"]

INIT = '''"""What tests share: where things lie, and how a command is started on several ranks.

clips: small media files. waiting: patience. faulty: runs that break. ranks: a layout against the
whole. browser: JupyterLab and a Chromium. fuzz_inputs: spoilt files.
"""
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "data_samples"


def torchrun(ranks: int | str) -> list[str]:
    """The beginning of a command that runs a module or a script on so many ranks."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={ranks}"]
'''
PATH_LINE = "sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`\n"
notes: list[str] = []


def git(*args: str) -> None:
    subprocess.run(["git", *args], check=True, cwd=ROOT)


def room_of(path: Path) -> str:
    """The folder of a test file."""
    stem = path.stem.removeprefix("test_")
    for room, names in ROOMS.items():
        if stem in names.split():
            return room
    if stem in UNIT.split():
        return "unit"
    text = path.read_text()
    if re.search(r"torch\.distributed\.run|torchrun|import faulty|from faulty", text):
        notes.append(f"{path.name}: starts ranks or faulty runs, goes to processes")
        return "processes"
    return "unit"


def move() -> dict[str, str]:
    """Old name -> new place, of all files; the files are moved."""
    places = {}
    for path in sorted(TESTS.glob("*.py")):
        if path.stem == "conftest":
            continue
        if path.stem in SUPPORT:
            room = "support"
        elif path.stem in TOOLS:
            room = "tools"
        elif path.stem.startswith("test_"):
            room = room_of(path)
        else:
            room = "support"
            notes.append(f"{path.name}: no test and not known, goes to support")
        places[path.name] = f"{room}/{path.name}"
    for name, place in places.items():
        (TESTS / place).parent.mkdir(exist_ok=True)
        git("mv", f"tests/{name}", f"tests/{place}")
    return places


def add_import(text: str, line: str) -> str:
    """A line behind the last import at the head of a module (or the docstring)."""
    tree, at = ast.parse(text), 0
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            at = node.end_lineno
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and not at:
            at = node.end_lineno
        else:
            break
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:at], line, *lines[at:]])


def own_module_name(name: str) -> str:
    """support.waiting, tools.fuzz, ..., by a module's name."""
    return f"{'tools' if name in TOOLS else 'support'}.{name}"


def rewrite(path: Path, names: list[str], places: dict[str, str]) -> None:
    """Imports, paths and starts of ranks in one file."""
    text = path.read_text()
    each = "|".join(map(re.escape, names))
    text = re.sub(rf"^([ \t]*)from ({each}) import",
                  lambda m: f"{m[1]}from {own_module_name(m[2])} import", text, flags=re.M)
    text = re.sub(rf"^([ \t]*)import ({each})$",
                  lambda m: f"{m[1]}from {own_module_name(m[2]).rpartition('.')[0]} import {m[2]}",
                  text, flags=re.M)
    here = r"Path\(__file__\)(?:\.resolve\(\))?"
    for name, value in (("ROOT", rf"{here}\.parents\[1\]"),
                        ("SAMPLES", rf"(?:{here}\.(?:parents\[1\]|parent\.parent)|ROOT) / \"data_samples\"")):
        text, found = re.subn(rf"^{name} = {value}\n", "", text, flags=re.M)
        if found:
            text = add_import(text, f"from support import {name}\n")
    text = re.sub(rf"({here})\.parents\[1\]", r"\1.parents[2]", text)
    text = re.sub(rf"({here})\.parent\.parent\b", r"\1.parents[2]", text)
    text = re.sub(rf"{here}\.with_name\(\"(\w+)\.py\"\)",
                  lambda m: f'Path(__file__).resolve().parents[1] / "{places[m[1] + ".py"]}"'
                  if m[1] + ".py" in places else m[0], text)
    text, split = re.subn(
        r'sys\.executable,\s*"-m",\s*"torch\.distributed\.run",\s*"--standalone",\s*'
        r'"--nproc[-_]per[-_]node",\s*"?(\w+)"?', r"*torchrun(\1)", text)
    start = (r'sys\.executable,\s*"-m",\s*"torch\.distributed\.run",\s*"--standalone",\s*'
             r'f?"--nproc[-_]per[-_]node=\{?(\w+)\}?"')
    text, found = re.subn(start, r"*torchrun(\1)", text)
    more = r'\["-m", "torch\.distributed\.run", "--standalone", f?"--nproc[-_]per[-_]node=\{?(\w+)\}?"\]'
    text, again = re.subn(more, r"torchrun(\1)[1:]", text)
    text = re.sub(r"\[\*torchrun\((\w+)\)\]", r"torchrun(\1)", text)
    if found + again + split:
        text = add_import(text, "from support import torchrun\n")
    ours = re.search(r"^([ \t]*)from (?:support|tools)\b", text, re.M)
    if ours and "__main__" in text:
        for line in ("from pathlib import Path\n", "import sys\n"):
            if not re.search(rf"^{re.escape(line)}", text, re.M):
                text = add_import(text, line)
        first = re.search(r"^from (?:support|tools)\b", text, re.M)
        if first:  # before the first of ours; what it needs is above, or is moved there
            head = text[:first.start()]
            for line in ("from pathlib import Path\n", "import sys\n"):
                if line not in head:
                    text = text.replace(line, "", 1)
                    first = re.search(r"^from (?:support|tools)\b", text, re.M)
                    text = text[:first.start()] + line + text[first.start():]
                    first = re.search(r"^from (?:support|tools)\b", text, re.M)
                    head = text[:first.start()]
            first = re.search(r"^from (?:support|tools)\b", text, re.M)
            text = text[:first.start()] + "\n" + PATH_LINE + text[first.start():]
        else:
            text = add_import(text, PATH_LINE)
    # one line for what comes from `support` itself
    got = sorted({n.strip() for m in re.findall(r"^from support import ([\w, ]+)\n", text, re.M)
                  for n in m.split(",")})
    if len(got) > 1:
        at = re.search(r"^from support import [\w, ]+\n", text, re.M).start()
        text = re.sub(r"^from support import [\w, ]+\n", "", text, flags=re.M)
        text = text[:at] + f"from support import {', '.join(got)}\n" + text[at:]
    path.write_text(shorter(text))


def share_clips() -> None:
    """Functions that write small files and stand in several test files, equal: once, in support."""
    found: dict[str, list[tuple[Path, ast.FunctionDef]]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("write_"):
                found.setdefault(node.name, []).append((path, node))
    shared = {}
    for name, places in found.items():
        kinds = {ast.dump(node) for _, node in places}
        if len(places) > 1 and len(kinds) == 1:
            shared[name] = places
        elif len(places) > 1:
            notes.append(f"{name} stands in {', '.join(p.name for p, _ in places)}, not equal: "
                         "left there")
    if not shared:
        return
    pieces = []
    for places in shared.values():
        path, node = places[0]
        pieces.append(ast.get_source_segment(path.read_text(), node))
    (TESTS / "support" / "clips.py").write_text(
        '"""Small clips and pictures, as files."""\nimport numpy as np\n\n\n'
        + "\n\n\n".join(pieces) + "\n")
    for path in {p for places in shared.values() for p, _ in places}:
        text = path.read_text()
        mine = sorted(name for name, places in shared.items() if path in [p for p, _ in places])
        for name in mine:
            node = next(n for n in ast.parse(text).body
                        if isinstance(n, ast.FunctionDef) and n.name == name)
            lines = text.splitlines(keepends=True)
            end = node.end_lineno
            while end < len(lines) and not lines[end].strip():
                end += 1
            text = "".join([*lines[:node.lineno - 1], *lines[end:]])
        path.write_text(add_import(text, f"from support.clips import {', '.join(mine)}\n"))


def mentions(places: dict[str, str]) -> None:
    """tests/kills.py -> tests/tools/kills.py, wherever it is written."""
    files = [*TESTS.rglob("*.py"), *(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "docs").glob("*.py"),
             *(ROOT / "vicmae").rglob("*.py"), *(ROOT / ".github").rglob("*.yml"),
             *(ROOT / name for name in ("Makefile", "README.md", "settings.ini", ".ruff.toml"))]
    pattern = re.compile(r"tests/(" + "|".join(re.escape(name) for name in places) + r")\b")
    for path in files:
        old = path.read_text()
        new = pattern.sub(lambda m: f"tests/{places[m[1]]}", old)
        if new != old:
            path.write_text(shorter(new) if path.suffix == ".py" and "vicmae" not in path.parts[-2:-1]
                            else new)


def shorter(text: str, width: int = 100) -> str:
    """Lines that a longer name has made too long: spaces closed up, imports and prose broken."""
    done = []
    for line in text.split("\n"):
        if len(line) > width and not line.lstrip().startswith(("from ", "import ")):
            indent = line[: len(line) - len(line.lstrip())]
            line = indent + re.sub(r" {2,}(?!#)", "  ", line.lstrip())
        if len(line) > width and re.match(r"from \S+ import [^(]+$", line):
            head, _, names = line.partition(" import ")
            done += [f"{head} import (", *(f"    {n.strip()}," for n in names.split(",")), ")"]
            continue
        if len(line) > width and "tests/" in line:
            at = line.rfind(" ", 0, width)
            indent = re.match(r" *", line)[0]
            comment = "# " if "#" in line[:at] else ""
            done += [line[:at].rstrip(), f"{indent}{comment}{line[at:].strip()}"]
            continue
        done.append(line)
    return "\n".join(done)


def markers() -> None:
    """`slow`, and the groups, in conftest; `make test-slow`."""
    path = TESTS / "conftest.py"
    text = path.read_text()
    wrap = lambda names: "[" + ",\n        ".join(f'"{n}"' for n in names) + "]"
    assert "MARKERS = {\n" in text and "    items.sort(key=_rank)\n" in text, "conftest has changed"
    text = text.replace(
        "MARKERS = {\n",
        f"# Run by `make test-slow`, before a release: substrings of node ids.\nSLOW = {wrap(SLOW)}\n"
        f"# Files whose tests share one costly set-up: one worker runs them all.\n"
        f"GROUPED = {wrap(GROUPED)}\n\nMARKERS = {{\n"
        '    "slow": "takes long and seldom fails alone: `make test-slow`",\n', 1)
    text = text.replace(
        "    items.sort(key=_rank)\n",
        "    for item in items:\n"
        "        if any(name in item.nodeid for name in SLOW):\n"
        "            item.add_marker(pytest.mark.slow)\n"
        "        if item.path.stem in GROUPED:\n"
        "            item.add_marker(pytest.mark.xdist_group(item.path.stem))\n"
        "    items.sort(key=_rank)\n", 1)
    text = text.replace('def pytest_collection_modifyitems(items',
                        '@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups\n'
                        'def pytest_collection_modifyitems(items', 1)
    path.write_text(text)
    make = ROOT / "Makefile"
    text = make.read_text()
    lines = re.search(r"^test: .*\n((?:\t.*\n)+)", text, re.M)
    assert lines and "-m pytest" in lines[1], "the Makefile's `test` has changed"
    run = ("OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(JOBS) --dist loadgroup "
           "--no-loadscope-reorder \\\n\t  ")
    text = text.replace(lines[0], (
        "test: $(STAMP) ## run every check: notebooks, tests, ruff, wheel, sizes\n"
        f"\t{run}-m 'not slow' --durations 25 tests\n\n"
        "test-slow: $(STAMP) ## the tests that take long, before a release\n"
        f"\t{run}-m slow --durations 25 tests\n"))
    text = re.sub(r"^(\.PHONY:.*) test ", r"\1 test test-slow ", text, flags=re.M)
    text = text.replace(r"s/^\([a-z]*\): ", r"s/^\([a-z-]*\): ")
    make.write_text(text)


def check() -> int:
    """ruff without unused imports, and pytest's collection."""
    python = sys.executable
    fix = [python, "-m", "ruff", "check", "--no-cache", "--fix", "--select", "F401", "-q", "tests"]
    subprocess.run(fix, cwd=ROOT)
    bad = subprocess.run([python, "-m", "ruff", "check", "--no-cache", "tests"], cwd=ROOT).returncode
    left = [f"{p.relative_to(ROOT)}: {m}" for p in TESTS.rglob("*.py") if p.parent.name != "support"
            for m in re.findall(r'.*"torch\.distributed\.run".*', p.read_text())]
    for line in left:
        print("still spelled out:", line)
    bad |= subprocess.run([python, "-m", "pytest", "--collect-only", "-q", "tests"], cwd=ROOT,
                          stdout=subprocess.DEVNULL).returncode
    return bad


def main() -> int:
    if not (TESTS / "conftest.py").exists() or (TESTS / "unit").exists():
        raise SystemExit("run this once, in the root of a tree whose tests still lie flat")
    places = move()
    (TESTS / "support" / "__init__.py").write_text(INIT)
    names = [Path(name).stem for name in places if not name.startswith("test_")]
    for path in sorted(TESTS.rglob("*.py")):
        if path.name not in ("conftest.py", "__init__.py"):
            rewrite(path, names, places)
    share_clips()
    mentions(places)
    markers()
    git("add", "-A", "tests", "Makefile")
    for note in notes:
        print("note:", note)
    bad = check()
    print("rooms:", ", ".join(f"{room} {len(list((TESTS / room).glob('*.py')))}" for room in
                              ("unit", "processes", "faults", "site", "support", "tools")))
    return bad


if __name__ == "__main__":
    sys.exit(main())
