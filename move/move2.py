"""After move.py: data files, setup.py, gates, docs. Run in the tree's root."""
import re, subprocess
from pathlib import Path
ROOT = Path.cwd()
def git(*a): subprocess.run(["git", *map(str, a)], check=True, cwd=ROOT)
def sub(path, *pairs, must=True):
    p = ROOT / path; s = p.read_text()
    for old, new in pairs:
        if old not in s:
            print("NOT FOUND in", path, ":", old[:90]); continue
        s = s.replace(old, new)
    p.write_text(s)
# data of the package: the ledger beside its reader, everything shipped in one folder
(ROOT / "vicmae/shipped").mkdir(exist_ok=True)
git("mv", "vicmae/ledger.json", "vicmae/pretraining/ledger.json")
for name in ("tiny.json", "tiny64.json", "tiny.safetensors", "tiny64.safetensors", "samples"):
    git("mv", f"vicmae/{name}", f"vicmae/shipped/{name}")
for path in [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("docs/*.py")]:
    s = old = path.read_text()
    s = s.replace('Path(__file__).with_name(\\"samples\\")', 'Path(__file__).parents[1].joinpath(\\"shipped\\", \\"samples\\")')
    s = s.replace('Path(__file__).with_name(f\\"{source}.safetensors\\")', 'Path(__file__).parents[1].joinpath(\\"shipped\\", f\\"{source}.safetensors\\")')
    s = re.sub(r'Path\(__file__\)\.with_name\(f\\"\{name\}\.(json|safetensors)\\"\)', r'Path(__file__).parents[1].joinpath(\\"shipped\\", f\\"{name}.\1\\")', s)
    s = re.sub(r"vicmae/(samples|tiny64|tiny)(?=[/.])", r"vicmae/shipped/\1", s)
    if s != old: path.write_text(s)
sub("setup.py", ('packages=[cfg["lib_name"]],', 'packages=find_packages(include=[cfg["lib_name"], f"{cfg[\'lib_name\']}.*"]),'))
s = (ROOT / "setup.py").read_text()
s = re.sub(r'package_data=\{cfg\["lib_name"\]: \[[^\]]*\]\}', 'package_data={cfg["lib_name"]: ["py.typed", "pretraining/ledger.json", "shipped/*", "shipped/samples/*"]}', s)
s = re.sub(r"from setuptools import setup", "from setuptools import find_packages, setup", s)
(ROOT / "setup.py").write_text(s)
