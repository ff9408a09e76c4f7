"""Gates and docs know rooms. Run in the tree's root after move2."""
import re
from pathlib import Path
ROOT = Path.cwd()
def sub(path, *pairs):
    p = ROOT / path; s = p.read_text()
    for old, new in pairs:
        if old not in s:
            print("NOT FOUND in", path, ":", old[:90]); continue
        s = s.replace(old, new)
    p.write_text(s)
T = next(ROOT.glob("tests/**/test_project.py")).relative_to(ROOT)
sub(T,
 ('MODULES = sorted(p for p in PACKAGE.glob("*.py") if p.stem not in ("__init__", "_modidx"))',
  'MODULES = sorted(p for p in PACKAGE.rglob("*.py")\n                 if p.stem not in ("__init__", "__main__", "_modidx"))'),
 ('MODULE_SPECS = [pytest.param(path, id=path.stem) for path in MODULES]',
  'MODULE_SPECS = [pytest.param(path, id=".".join(path.relative_to(PACKAGE).with_suffix("").parts))\n                for path in MODULES]'),
 (r'default_exp\s+(\w+)"', r'default_exp\s+([\w.]+)"'),
 (r'(?:\.\./)?nbs/(\S+\.ipynb)"', r'(?:\.\./)*nbs/(\S+\.ipynb)"'),
 ('''def imported(tree: ast.AST) -> set[str]:
    """Names of the package's modules that a syntax tree imports, relatively or by full name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("vicmae.")}
        elif isinstance(node, ast.ImportFrom):
            base = (node.module or "").split(".")
            if node.level == 0 and base[0] == "vicmae":
                base = base[1:]
            elif node.level == 0:
                continue
            names |= {base[0]} if base and base[0] else {a.name for a in node.names}
    return names


def numbers() -> dict[str, tuple[int, str]]:
''','''def imported(tree: ast.AST, own: str = "") -> set[str]:
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
'''),
 ('''    made, here = [{p.name: p.read_bytes() for p in (base / "vicmae").glob("*.py")}
                  for base in (copy, ROOT)]''','''    made, here = [{str(p.relative_to(base)): p.read_bytes() for p in base.rglob("vicmae/**/*.py")}
                  for base in (copy, ROOT)]'''),
 ('assert exported_name(path) == module.stem','assert exported_name(path) == module_name(module)'),
 ('missing = [n for n in names if n and not (PACKAGE / f"{n}.py").exists()]','missing = [n for n in names if n and not (PACKAGE / f"{n.replace(\'.\', \'/\')}.py").exists()]'),
 ('''    for name in imported(ast.parse(module.read_text("utf-8"))):
        assert name in order, f"{module.name} imports {name}, which no notebook writes"
''','''    for name in imported(ast.parse(module.read_text("utf-8")), module_name(module)):
        assert name in order, f"{module.name} imports {name}, which no notebook writes"
'''),
 ('else 99\n','else 999\n'),
 ('text.find("# %% ../nbs")','text.find("# %% ..")'),
)
s = (ROOT / T).read_text()
s = re.sub(r'def number\(notebook: str\).*?return int\(digits\), letter\n', '''def number(notebook: str) -> int:
    """The place of a notebook: three digits, the first two its room."""
    return int(re.match(r"(\\\\d{3})_", notebook)[1])


def module_name(module: Path) -> str:
    """A module as `room.name`, or `name` where it lies in no room."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)
''', s, flags=re.S)
s = s.replace('''

# ---------------------------------------------------------------- habits of the code
''','''

def test_rooms_are_few_and_no_arrow_runs_up() -> None:
    """The first two digits are the room; a room imports from rooms before it; eight modules each."""
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
''',1)
(ROOT / T).write_text(s)
P = "docs/project.py"
s = (ROOT / P).read_text()
a, b = s.index("# A part of the book begins"), s.index("BADGE =")
s = s[:a] + '''# A part of the book begins at this notebook: a new one falls into its part by its number.
PARTS = [("000", "Pictures of everything"), ("010", "What is learned from"), ("020", "The model"),
         ("030", "Real files"), ("040", "Training"), ("050", "The backbone"),
         ("060", "Pretraining"), ("070", "Evaluation"), ("080", "Fine-tuning"),
         ("090", "Seeing and touching"), ("100", "On a cluster"), ("110", "The command"),
         ("190", "Tutorials and solutions")]
''' + s[b:]
s = s.replace(r'default_exp\s+(\w+)"', r'default_exp\s+([\w.]+)"').replace("# 06_masking", "# 020_masking").replace("# 17a_labelled", "# 071_labelled").replace("as 06_masking", "as 020_masking").replace("number[:2].isdigit()", "number.isdigit()").replace("must begin with two digits", "must begin with three digits")
(ROOT / P).write_text(s)
