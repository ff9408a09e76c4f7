"""Every notebook is executed, each in its own process, as `nbdev_test` does."""
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
TIME_LIMIT = 300  # seconds
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


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_notebook_runs(path: Path) -> None:
    env = {**os.environ, "IN_TEST": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    status, output = run_limited([sys.executable, "-c", RUN, str(path)], TIME_LIMIT,
                                 cwd=path.parent, env=env)
    if status is None:
        pytest.fail(f"{path.name} took longer than {TIME_LIMIT} s\n{output[-2000:]}", pytrace=False)
    if status:
        pytest.fail(f"{path.name} failed\n{output[-6000:]}", pytrace=False)
