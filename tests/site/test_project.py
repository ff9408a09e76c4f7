"""What holds for the project as a whole: notebooks and modules in step, habits, sizes, speed."""
import ast
import configparser
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tokenize
from pathlib import Path

import pytest

from support.waiting import PATIENCE
from support import ROOT

NBS, PACKAGE = ROOT / "nbs", ROOT / "vicmae"
NOTEBOOKS = sorted(NBS.glob("*.ipynb"))
NUMBERED = [path for path in NOTEBOOKS if path.stem[0].isdigit()]
MODULES = sorted(p for p in PACKAGE.rglob("*.py")
                 if p.stem not in ("__init__", "__main__", "_modidx"))
SPECS = [pytest.param(path, id=path.stem) for path in NOTEBOOKS]
MODULE_SPECS = [pytest.param(path, id=".".join(path.relative_to(PACKAGE).with_suffix("").parts))
                for path in MODULES]
MACHINE_PATHS = re.compile("/" + r"(home/|root/|Users/|work/|tmp/ipykernel|tmp/src|private/var/)")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


# ---------------------------------------------------------------- reading notebooks and modules
def cells(path: Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def exported_name(path: Path) -> str | None:
    """The module that a notebook writes, from its `#| default_exp`."""
    for cell in cells(path, "code"):
        if match := re.search(r"^#\|\s*default_exp\s+([\w.]+)", source(cell), re.M):
            return match[1]
    return None


def origin(module: Path) -> str:
    """The notebook named in a module's header."""
    match = re.search(r"File to edit: (?:\.\./)*nbs/(\S+\.ipynb)", module.read_text("utf-8"))
    assert match, f"{module.name} names no notebook: it is not exported by nbdev"
    return match[1]


def number(notebook: str) -> int:
    """The place of a notebook: three digits, the first two its room."""
    return int(re.match(r"(\d{3})_", notebook)[1])


def module_name(module: Path) -> str:
    """A module as `room.name`, or `name` where it lies in no room."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def imported(tree: ast.AST, own: str = "") -> set[str]:
    """The package's modules that a syntax tree imports, relatively (to `own`) or by full name."""
    known, names = {module_name(path) for path in MODULES}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name.removeprefix("vicmae.") for a in node.names if "vicmae." in a.name}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".")
            if node.level:
                base = own.split(".")[: -node.level] + [part for part in base if part]
            elif base[0] == "vicmae":
                base = base[1:]
            else:
                continue
            found = {".".join([*base, a.name]) for a in node.names} | {".".join(base)}
            names |= found & known
            assert found & known or not base, f"line {node.lineno} imports no module of vicmae"
    return names


def numbers() -> dict[str, int]:
    """Module name -> number of its notebook."""
    return {exported_name(path): number(path.name) for path in NUMBERED if exported_name(path)}


def definitions(path: Path) -> list[tuple[str, ast.AST]]:
    """Functions and classes of a module and their methods, by dotted name; no nested functions."""
    found = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.append((node.name, node))
        if isinstance(node, ast.ClassDef):
            found += [(f"{node.name}.{m.name}", m) for m in node.body if isinstance(m, FUNCTIONS)]
    return found


# ---------------------------------------------------------------- notebooks and modules in step
def copy_of_project(folder: Path) -> Path:
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "nbs").mkdir()
    for path in NOTEBOOKS:
        shutil.copy(path, folder / "nbs" / path.name)
    (folder / "vicmae").mkdir()
    return folder


def tool(name: str, cwd: Path) -> None:
    command = [str(Path(sys.executable).parent / name)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, f"{name} failed\n{(done.stdout + done.stderr)[-4000:]}"


def test_notebooks_are_clean_and_modules_in_step(tmp_path: Path) -> None:
    """`make notebooks` on a copy without modules gives exactly the files that are here."""
    copy = copy_of_project(tmp_path)
    tool("nbdev_clean", copy)
    unclean = [p.name for p in NOTEBOOKS if p.read_bytes() != (copy / "nbs" / p.name).read_bytes()]
    tool("nbdev_export", copy)
    made, here = [{str(p.relative_to(base)): p.read_bytes() for p in base.rglob("vicmae/**/*.py")}
                  for base in (copy, ROOT)]
    drifted = [name for name in sorted(made.keys() & here.keys()) if made[name] != here[name]]
    problems = {"notebooks that are not clean": unclean,
                "modules not exported": sorted(made.keys() - here.keys()),
                "orphans, which no notebook writes": sorted(here.keys() - made.keys()),
                "modules out of step with their notebook": drifted}
    problems = {what: names for what, names in problems.items() if names}
    assert not problems, f"run `make notebooks`: {problems}"


@pytest.mark.parametrize("module", MODULE_SPECS)
def test_module_has_its_notebook(module: Path) -> None:
    path = NBS / origin(module)
    assert path.exists(), f"{module.name} is an orphan: {path.name} does not exist"
    assert exported_name(path) == module_name(module)


def test_every_exporting_notebook_has_its_module() -> None:
    names = [exported_name(path) for path in NUMBERED]
    missing = [n for n in names if n and not (PACKAGE / f"{n.replace('.', '/')}.py").exists()]
    assert not missing, f"not exported: {missing}"
    present = [n for n in names if n]
    assert len(present) == len(set(present)), "two notebooks write the same module"
    taken = [number(path.name) for path in NUMBERED]
    assert len(taken) == len(set(taken)), "two notebooks have the same number"


@pytest.mark.parametrize("module", MODULE_SPECS)
def test_module_imports_only_lower_numbers(module: Path) -> None:
    order, own = numbers(), number(origin(module))
    for name in imported(ast.parse(module.read_text("utf-8")), module_name(module)):
        assert name in order, f"{module.name} imports {name}, which no notebook writes"
        assert order[name] < own, f"{module.name} ({own}) imports {name} ({order[name]})"


@pytest.mark.parametrize("path", SPECS)
def test_notebook_uses_only_what_was_read_before(path: Path) -> None:
    own = number(path.name) if path in NUMBERED else 999
    order = numbers()
    for cell in cells(path, "code"):
        lines = source(cell).splitlines()
        text = "\n".join("pass" if line.lstrip()[:1] in "%!" and line.strip() else line
                         for line in lines)
        later = {n for n in imported(ast.parse(text)) if order.get(n, 0) > own}
        assert not later, f"{path.name} uses {later}, written in later notebooks"


def test_rooms_are_few_and_no_arrow_runs_up() -> None:
    """Two digits are the room; a room imports from rooms before it, and has eight modules."""
    order, rooms = numbers(), {}
    for name, place in order.items():
        rooms.setdefault(name.rpartition(".")[0], {})[name] = place // 10
    for room, modules in rooms.items():
        assert not room or len(set(modules.values())) == 1, f"{room}/ has notebooks of two rooms"
        assert len(modules) <= 8, f"{room}/ holds {len(modules)} modules, at most 8"
    for module in MODULES:
        own = module_name(module)
        for name in imported(ast.parse(module.read_text("utf-8")), own):
            assert order[name] // 10 <= order[own] // 10, f"{own} imports {name}, a room further up"


# ---------------------------------------------------------------- habits of the code
def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no comment, no docstring, nothing empty."""
    skip = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
            tokenize.ENDMARKER}
    lines = {line for token in tokenize.generate_tokens(io.StringIO(text).readline)
             if token.type not in skip for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.Module)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return lines


@pytest.mark.parametrize("module", MODULE_SPECS)
def test_module_imports_are_plain(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert all(a.name != "*" for a in node.names), f"star import, line {node.lineno}"
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            used = {n.split(".")[0] for n in names} & {"fastcore", "nbdev", "execnb"}
            assert not used, f"line {node.lineno} imports {used}, which users do not have"


@pytest.mark.parametrize("module", MODULE_SPECS)
def test_module_and_functions_are_short(module: Path) -> None:
    text = module.read_text("utf-8")
    assert len(code_lines(text)) <= 300, f"{module.name} has {len(code_lines(text))} lines of code"
    for name, node in definitions(module):
        lines = node.end_lineno - node.lineno + 1
        assert isinstance(node, ast.ClassDef) or lines <= 60, f"{name} has {lines} lines"
    start = text.find("# %% ..")  # before it: nbdev's header, with the notebook's subtitle
    long = [line for line in text[start:].splitlines() if len(line) > 100]
    assert not long, "lines of more than 100 characters:\n" + "\n".join(long)


def test_functions_are_short_as_a_rule() -> None:
    lengths = sorted(node.end_lineno - node.lineno + 1 for module in MODULES
                     for _, node in definitions(module) if isinstance(node, FUNCTIONS))
    median, p90 = lengths[len(lengths) // 2], lengths[int(0.9 * len(lengths))]
    assert median <= 15 and p90 <= 30, f"median {median} lines, 90th percentile {p90}"


@pytest.mark.parametrize("module", MODULE_SPECS)
def test_public_names_are_explained_and_typed(module: Path) -> None:
    missing = []
    for name, node in definitions(module):
        if any(part.startswith("_") and part != "__init__" for part in name.split(".")):
            continue
        if "." not in name and not ast.get_docstring(node):
            missing.append(f"{name}: no docstring")
        if isinstance(node, FUNCTIONS):
            every = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            missing += [f"{name}: {x.arg} has no type" for x in every
                        if x.annotation is None and x.arg not in ("self", "cls")]
    assert not missing, "\n".join(missing)


def test_ruff() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format", "concise",
               "vicmae", "nbs", "tests", "setup.py"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_exported_code_is_formatted() -> None:
    command = [sys.executable, "docs/style.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- pages that can be read
@pytest.mark.parametrize("path", SPECS)
def test_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size <= 250_000, f"{path.stat().st_size / 1000:.0f} kB, at most 250"


def test_everything_together_is_small() -> None:
    notebooks = sum(path.stat().st_size for path in NOTEBOOKS)
    samples = [p for p in (ROOT / "data_samples").rglob("*") if p.is_file()]
    mean = notebooks / len(NOTEBOOKS)
    assert mean <= 110_000, f"notebooks: {mean / 1000:.0f} kB on average, at most 110"
    assert samples, "data_samples/ is empty"
    size = sum(path.stat().st_size for path in samples)
    assert size <= 8_000_000, f"data_samples: {size / 1e6:.1f} MB, at most 8"


@pytest.mark.parametrize("path", [p for p in SPECS if p.values[0] in NUMBERED])
def test_notebook_has_words_and_a_picture(path: Path) -> None:
    words = sum(len(source(cell).split()) for cell in cells(path, "markdown"))
    outputs = [out for cell in cells(path, "code") for out in cell["outputs"]]
    pictures = sum(any(kind.startswith("image/") for kind in out.get("data", {}))
                   for out in outputs)
    assert words >= 200, f"{words} words"
    assert pictures or exported_name(path) == "cli" and outputs, "no stored picture"


@pytest.mark.parametrize("path", SPECS)
def test_notebook_opens_with_its_title(path: Path) -> None:
    first = json.loads(path.read_text("utf-8"))["cells"][0]
    lines = [line for line in source(first).splitlines() if line.strip()]
    assert first["cell_type"] == "markdown" and len(lines) >= 2
    assert lines[0].startswith("# ") and lines[1].startswith("> ")


@pytest.mark.parametrize("path", SPECS)
def test_notebook_holds_no_errors_and_no_machine_paths(path: Path) -> None:
    for cell in cells(path, "code"):
        for out in cell["outputs"]:
            assert out["output_type"] != "error", f"stored error: {out.get('ename')}"
    notebook = json.loads(path.read_text("utf-8"))
    for cell in notebook["cells"]:
        texts = [source(cell)]
        for out in cell.get("outputs", []):
            texts.append("".join(out.get("text", [])))
            texts += ["".join(data) for kind, data in out.get("data", {}).items()
                      if kind.startswith("text/")]
        found = [match.group() for text in texts for match in MACHINE_PATHS.finditer(text)]
        assert not found, f"paths of one machine: {found} in cell {source(cell)[:80]!r}"
        progress = [text for text in texts[1:] if "it/s]" in text or "s/it]" in text]
        assert not progress, f"a stored progress bar: {progress[0][:80]!r}"


@pytest.mark.parametrize("name", ["Makefile", "settings.ini", "setup.py", "README.md", ".ci/run"])
def test_file_names_no_machine_path(name: str) -> None:
    assert not MACHINE_PATHS.findall((ROOT / name).read_text("utf-8"))


def test_readme_is_made_from_the_index(tmp_path: Path) -> None:
    if not shutil.which("make"):
        pytest.skip("needs make")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "-s", "-o", ".venv/.stamp", "readme", f"README={tmp_path / 'README.md'}",
               f"PY={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    made, here = [re.sub(r"\n{2,}", "\n\n", (base / "README.md").read_text("utf-8")).strip()
                  for base in (tmp_path, ROOT)]
    assert made == here, "README.md is out of step with nbs/index.ipynb: make readme"
    for cell in cells(NBS / "index.ipynb", "code"):
        assert not cell["outputs"], "index.ipynb stores an output"


def test_links_of_the_readme_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / "README.md").read_text("utf-8"))
    inside = [t for t in targets if "://" not in t and not t.startswith("mailto:")]
    missing = [target for target in inside if not (ROOT / target).exists()]
    assert not missing, f"README.md links to {missing}"


def test_names_are_said_once() -> None:
    """The version is settings.ini's; the package carries nbdev's copy of it."""
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    text = (PACKAGE / "__init__.py").read_text("utf-8")
    assert f'__version__ = "{parser["DEFAULT"]["version"]}"' in text.replace("'", '"')


# ---------------------------------------------------------------- speed
def best_of(tries: int, limit: float, command: list[str], printed: bool = False) -> float:
    """Fastest of some runs (fewer once one is under `limit`): wall time, or the time it prints."""
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stderr[-3000:]
        best = min(best, float(done.stdout) if printed else seconds)
        if best < limit:
            break
    return best


HELP = """
import sys
sys.argv = ["vicmae", "--help"]
from vicmae.cli import main
try: main()
except SystemExit: pass
heavy = {"torch", "torchvision", "timm", "matplotlib", "sklearn"} & set(sys.modules)
assert not heavy, f"vicmae --help loads {heavy}"
"""


@pytest.fixture(scope="module")
def bare() -> float:
    """Seconds that this machine takes to start Python alone: 0.02 where it is quick and idle."""
    return best_of(5, 0, [sys.executable, "-c", "pass"])


@pytest.mark.clocks
def test_import_is_quick_and_loads_no_torch(bare: float) -> None:
    code = "import sys, vicmae; assert 'torch' not in sys.modules"
    seconds = best_of(5, 6 * bare, [sys.executable, "-c", code])
    assert seconds < 12 * bare, f"import vicmae takes {seconds:.2f} s with the interpreter's start"


@pytest.mark.clocks
def test_help_is_quick_and_loads_no_torch(bare: float) -> None:
    best_of(1, 9, [sys.executable, "-c", HELP])
    seconds = best_of(5, 6 * bare, [str(Path(sys.executable).parent / "vicmae"), "--help"])
    assert seconds < 12 * bare, f"vicmae --help takes {seconds:.2f} s, Python alone {bare:.2f} s"


@pytest.mark.clocks
def test_model_is_quick_to_import(bare: float) -> None:
    code = ("import time, torch, torchvision, timm; start = time.perf_counter(); "
            "from vicmae.model.vicmae import ViCMAE; print(time.perf_counter() - start)")
    seconds = best_of(5, 5 * bare, [sys.executable, "-c", code], printed=True)
    assert seconds < 15 * bare, f"the model takes {seconds:.2f} s, Python alone {bare:.2f} s"
