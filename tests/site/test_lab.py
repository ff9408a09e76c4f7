"""`make lab`: JupyterLab of this environment opens on the first page; it is asked, and stopped."""
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from support.browser import environment
from support.waiting import PATIENCE, wait_for
from support import ROOT

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="needs make")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_make_lab_opens_the_first_page_in_this_environment(tmp_path: Path) -> None:
    port, token = free_port(), secrets.token_hex(8)
    options = (f"--no-browser --allow-root --ServerApp.port={port} --ServerApp.port_retries=0 "
               f"--ServerApp.ip=127.0.0.1 --IdentityProvider.token={token}")
    env = {k: v for k, v in environment(tmp_path).items() if not k.startswith(("MAKE", "MFLAGS"))}
    env.pop("JUPYTER_PREFER_ENV_PATH")  # the target's own affair: a user's kernel hides no other
    kernel = tmp_path / "data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text('{"argv": ["x"], "display_name": "another Python", "language": "python"}')

    def ask(path: str) -> tuple[str, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}",
                                         headers={"Authorization": f"token {token}"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.url, answer.read().decode()

    def up() -> str:
        assert server.poll() is None, (tmp_path / "log").read_text()[-3000:]
        with contextlib.suppress(OSError):
            return ask("/api/status")[1]
        return ""

    with open(tmp_path / "log", "wb") as log:
        server = subprocess.Popen(
            ["make", "-s", "-o", ".venv/.stamp", "lab", f"PY={sys.executable}", f"LAB={options}"],
            cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        assert "started" in wait_for("JupyterLab", up, pause=0.3)
        assert ask("/")[0].split("?")[0].endswith("/lab/tree/nbs/index.ipynb")
        page = json.loads(ask("/api/contents/nbs/index.ipynb")[1])
        assert page["type"] == "notebook" and "make lab" in json.dumps(page["content"])
        kernel = json.loads(ask("/api/kernelspecs")[1])["kernelspecs"]["python3"]["spec"]
        assert kernel["display_name"] != "another Python"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)
