"""Every notebook is executed, each in its own process, as `nbdev_test` does."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
# Notebooks with asserts that the machine could change (see tests/conftest.py), by first word.
MARKED = {
    "floats": "07 09 10 11 12 13 13a 14 15 15a 15b 16a 16b 17 18 19 19a 21 21a 23 30 31a 31b 31d",
    "clocks": "02 08 23a 24 24a 30",
}
TIME_LIMIT = 600  # seconds; what takes longest alone takes 60
RUN = """
import sys
from pathlib import Path
from nbdev.config import get_config
from nbdev.test import test_nb
cfg = get_config()
good, _ = test_nb(Path(sys.argv[1]), skip_flags=cfg.tst_flags.split(), basepath=cfg.config_path)
sys.exit(not good)
"""


def run_limited(command: list[str], seconds: float, **kwargs) -> tuple[int | None, str]:
    """Exit status (None: out of time) and output; ends the whole process group on time-out."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               errors="replace", start_new_session=True, **kwargs)
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]


def marked(path: Path) -> object:
    """A notebook as a parameter, with the markers that MARKED gives it."""
    marks = [getattr(pytest.mark, name) for name, which in MARKED.items()
             if path.stem.split("_")[0] in which.split()]
    return pytest.param(path, id=path.stem, marks=marks)


@pytest.mark.parametrize("path", [marked(path) for path in NOTEBOOKS])
def test_notebook_runs(path: Path) -> None:
    env = {**os.environ, "IN_TEST": "1", "MPLBACKEND": "agg"}
    status, output = run_limited([sys.executable, "-c", RUN, str(path)], TIME_LIMIT,
                                 cwd=path.parent, env=env)
    if status is None:
        pytest.fail(f"{path.name} took longer than {TIME_LIMIT} s\n{output[-2000:]}", pytrace=False)
    if status:
        pytest.fail(f"{path.name} failed\n{output[-6000:]}", pytrace=False)
