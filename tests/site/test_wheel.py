"""The sdist, the wheel built from it, and that wheel at work in a clean environment."""
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.waiting import PATIENCE
from support import ROOT

SOURCES = ["settings.ini", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "vicmae", "tests"]


def run(*command: object, cwd: Path, seconds: float = PATIENCE) -> str:
    """Output of a command that must succeed; without Python paths of ours in its environment."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, timeout=seconds,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}", pytrace=False)
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory) -> Path:
    """Folder with the sdist and the wheel, built from a copy."""
    copy = tmp_path_factory.mktemp("copy")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    return copy / "dist"


@pytest.fixture(scope="module")
def clean(dist: Path, tmp_path_factory) -> Path:
    """`bin` of a new environment with the wheel alone; it borrows the other packages from ours."""
    home = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    wheel = next(dist.glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index",
        "--quiet", wheel, cwd=home)
    ours = Path(importlib.util.find_spec("torch").origin).parents[1]
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home)
    (Path(site.strip()) / "borrowed.pth").write_text(f"{ours}\n")
    where = run(python, "-c", "import vicmae; print(vicmae.__file__)", cwd=home).strip()
    assert Path(where).is_relative_to(home), f"the clean environment imports vicmae from {where}"
    return python.parent


def test_sdist_and_wheel_hold_what_they_should(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        sdist = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "vicmae").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts}
    assert {"settings.ini", "setup.py", "README.md", "LICENSE", *package} <= sdist
    assert not [name for name in sdist if name.startswith(("nbs", "tests", "data_samples"))]
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        wheel = set(archive.namelist())
    assert {name for name in wheel if ".dist-info/" not in name} == package
    assert any(name.endswith("LICENSE") for name in wheel)


def test_installed_command_says_what_it_can_do(clean: Path) -> None:
    out = run(clean / "vicmae", "--help", cwd=clean.parent)
    for command in ("pretrain", "world", "parity", "recipe"):
        assert command in out


def test_installed_wheel_pretrains(clean: Path, tmp_path: Path) -> None:
    run(clean / "vicmae", "pretrain", "--recipe", "debug", "--data", ROOT / "data_samples",
        "--out", tmp_path / "run", "--steps", "2", cwd=tmp_path)
    for pattern in ("*.safetensors", "metrics.jsonl", "*.png"):
        assert list((tmp_path / "run").rglob(pattern)), f"the run left no {pattern}"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_installed_wheel_shows_what_a_model_has_learned(clean: Path, tmp_path: Path) -> None:
    """Right after `pip install`: shipped weights, shipped samples, a picture for each."""
    run(clean / "vicmae", "reconstruct", "tiny64", "--out", "pictures", cwd=tmp_path)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 10
