"""Every notebook is executed as `nbdev_test` does, each in a process of its own.

The processes are forked from one that has imported the large libraries already; that saves the
suite some seconds of processor time a notebook.
"""
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
# Notebooks with asserts that the machine could change (see tests/conftest.py), by first word.
MARKED = {
    "floats": "021 022 023 024 052 053 061 064 071 072 073 074 076 081 082 083 094 095 100 101 104 "
              "120 121 122 190 192 193 195",
    "clocks": "032 050 130 131 132 190",
}
TIME_LIMIT = 600  # seconds; what takes longest alone takes 60
FORKS = """
import json, os, sys
import av, IPython, numpy, sklearn, timm, torch, torchvision  # large, and no notebook's subject
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
for line in sys.stdin:
    path, log = json.loads(line)
    pid = os.fork()
    if not pid:
        os.setsid()
        for number, (name, mode) in enumerate([(os.devnull, os.O_RDONLY), (log, os.O_WRONLY)]):
            os.dup2(os.open(name, mode), number)
        os.dup2(1, 2)
        good, _ = test_nb(Path(path), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)
        sys.exit(not good)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


def marked(path: Path) -> object:
    """A notebook as a parameter, with the markers that MARKED gives it."""
    marks = [getattr(pytest.mark, name) for name, which in MARKED.items()
             if path.stem.split("_")[0] in which.split()]
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen]:
    """The process that forks one for each notebook."""
    env = {**os.environ, "IN_TEST": "1", "MPLBACKEND": "agg"}
    process = subprocess.Popen([sys.executable, "-c", FORKS], cwd=ROOT / "nbs", env=env, bufsize=0,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.stdin.close()
    process.wait()


def run_limited(forks: subprocess.Popen, path: Path, log: Path) -> int | None:
    """Exit status (None: out of time); the whole process group is ended either way."""
    log.touch()
    forks.stdin.write(json.dumps([str(path), str(log)]).encode() + b"\n")
    said = forks.stdout.readline()
    assert said, "the process that forks one for each notebook has ended; see its error above"
    pid = int(said)
    ended = select.select([forks.stdout], [], [], TIME_LIMIT)[0]
    with contextlib.suppress(ProcessLookupError):  # and what it has left running
        os.killpg(pid, signal.SIGKILL)
    status = int(forks.stdout.readline())
    return status if ended else None


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_notebook_runs(path: Path, forks: subprocess.Popen, tmp_path: Path) -> None:
    log = tmp_path / "output.txt"
    status = run_limited(forks, path, log)
    output = log.read_text(encoding="utf-8", errors="replace")
    if status is None:
        pytest.fail(f"{path.name} took longer than {TIME_LIMIT} s\n{output[-2000:]}", pytrace=False)
    if status:
        pytest.fail(f"{path.name} failed\n{output[-6000:]}", pytrace=False)
