"""Run the tests whose result a machine could change in several ways, a log for each.

    python tests/tools/variations.py   # all lanes: a few minutes each on two idle cores
    python tests/tools/variations.py threads-4 busy     # some of them
    python tests/tools/variations.py --logs DIR --oldest PYTHON --newest PYTHON --venvs DIR

Lanes with this Python: one thread and four, the plain and the AVX2 kernels of PyTorch, and beside
busy processes. Two more make an environment of their own (in --venvs, where it stays for the next
time): `oldest` has the oldest Python that is found and the oldest of each library that settings.ini
promises, `newest` the newest Python and what pip picks for it. Each lane runs
`pytest -m "floats or clocks"`; the markers are explained in tests/conftest.py.
"""
import argparse
import configparser
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for `support`
from support import ROOT

LANES = {  # name: environment variables
    "threads-1": {},
    "threads-4": {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive"},  # no spinning
    "kernels-default": {"ATEN_CPU_CAPABILITY": "default"},
    "kernels-avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "busy": {},
    "oldest": {},
    "newest": {},
}
VERSIONS = """
import json, platform, importlib.metadata as m
import torch
found = {"Python": platform.python_version()}
for name in ("torch", "torchvision", "timm", "av", "pillow", "numpy"):
    found[name] = m.version(name)
found["kernels"] = torch.backends.cpu.get_cpu_capability()
found["threads"] = torch.get_num_threads()
print(json.dumps(found))
"""


def find_python(oldest: bool) -> str | None:
    """The oldest or newest other Python, from 3.10 on: on the PATH, or built by pyenv."""
    minors = range(10, 30) if oldest else range(29, 9, -1)
    for minor in minors:
        built = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))
        for path in (shutil.which(f"python3.{minor}"), *map(str, built)):
            if path and not subprocess.run([path, "-c", "import venv"], capture_output=True,
                                           check=False).returncode:
                return path
    return None


def oldest_versions() -> list[str]:
    """Every `name>=version` of settings.ini as `name==version`."""
    parser = configparser.ConfigParser(delimiters=["="])
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    settings = parser["DEFAULT"]
    wanted = (settings["requirements"] + " " + settings["explore_requirements"]).split()
    return [word.replace(">=", "==") for word in wanted if ">=" in word]


def environment_of(lane: str, python: str, venvs: Path, log) -> str:
    """The Python of a lane's own environment, made now or before."""
    home = venvs / lane
    found, stamp = home / "bin/python", home / ".complete"
    wanted = (ROOT / "settings.ini").read_text(encoding="utf-8") + python
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        limits = venvs / f"{lane}.txt"
        venvs.mkdir(parents=True, exist_ok=True)
        limits.write_text("\n".join(oldest_versions() if lane == "oldest" else []) + "\n")
        for command in ([python, "-m", "venv", home],
                        [found, "-m", "pip", "install", "--upgrade", "pip"],
                        [found, "-m", "pip", "install", "-c", limits, "-e", f"{ROOT}[dev]"]):
            subprocess.run(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log, check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return str(found)


@contextlib.contextmanager
def load(on: bool) -> Iterator[None]:
    """Processes that keep every core busy."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)] if on else []
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def run_lane(lane: str, python: str, args: argparse.Namespace, log) -> tuple[str, bool]:
    """Versions and result of a lane, and whether all went well; its log is written as it runs."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | LANES[lane]
    env["PATH"] = f"{Path(python).parent}{os.pathsep}{env['PATH']}"
    said = subprocess.run([python, "-c", VERSIONS], env=env, capture_output=True, text=True)
    found = json.loads(said.stdout) if not said.returncode else {"no torch": said.stderr[-200:]}
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    print(versions, file=log, flush=True)
    command = [python, "-m", "pytest", "-v", "-n", str(args.jobs), "--maxschedchunk", "1",
               "-m", "floats or clocks", "--durations", "10", *args.tests]
    began = time.monotonic()
    with load(lane == "busy"):
        code = subprocess.run(command, cwd=ROOT, env=env, stdout=log, stderr=log).returncode
    log.flush()
    counts = re.findall(r"^\d+ passed, \d+ failed.*$", Path(log.name).read_text(), re.M)
    result = counts[-1] if counts else f"pytest ended with {code} and counted nothing"
    return f"{result} in {(time.monotonic() - began) / 60:.1f} min ({versions})", not code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("lanes", nargs="*", metavar="LANE", help=", ".join(LANES))
    parser.add_argument("--logs", type=Path, default=ROOT / "runs/variations")
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir(), "vicmae-venvs"))
    parser.add_argument("--oldest", default=find_python(True), help="a Python for `oldest`")
    parser.add_argument("--newest", default=find_python(False), help="a Python for `newest`")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--tests", nargs="+", default=["tests"], help="what pytest is given")
    args = parser.parse_args()
    if unknown := set(args.lanes) - set(LANES):
        parser.error(f"no such lane: {', '.join(sorted(unknown))}; there are {', '.join(LANES)}")
    args.logs.mkdir(parents=True, exist_ok=True)
    good = True
    for lane in args.lanes or LANES:
        with open(args.logs / f"{lane}.log", "w", encoding="utf-8") as log:
            try:
                python = sys.executable
                if lane in ("oldest", "newest"):
                    python = environment_of(lane, getattr(args, lane), args.venvs, log)
                line, fine = run_lane(lane, python, args, log)
            except (subprocess.CalledProcessError, OSError, TypeError) as error:
                line, fine = f"could not be tried: {error}", False
        good &= fine
        print(f"{lane:16s} {line}; log: {log.name}", flush=True)
    return not good


if __name__ == "__main__":
    sys.exit(main())
