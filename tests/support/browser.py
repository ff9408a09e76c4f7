"""A JupyterLab server of its own and a headless Chromium in front of it, for tests of widgets."""

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
LAB = ["--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True",
       "--LabApp.news_url=None", "--LabApp.extension_manager=readonly",
       "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
       "--ServerApp.ip=127.0.0.1", "--ServerApp.port_retries=0"]
# Pixels of a canvas as one short text, and the time from the last input event to their change.
WATCH = """
window.pixels = (canvas) => {
  const small = new OffscreenCanvas(32, 32), pen = small.getContext("2d");
  pen.drawImage(canvas, 0, 0, 32, 32);
  return pen.getImageData(0, 0, 32, 32).data.join();
};
for (const kind of ["pointerdown", "pointermove", "keydown", "change"])
  document.addEventListener(kind, () => { window.began = performance.now(); }, true);
window.await_change = (canvas) => {
  const before = window.pixels(canvas);
  window.changed = new Promise((done) => {
    const look = () => window.pixels(canvas) === before
      ? requestAnimationFrame(look) : done(performance.now() - window.began);
    look();
  });
};
"""


def find_browser() -> str | None:
    "The system's Chromium."
    return next((path for path in map(shutil.which, NAMES) if path), None)


def write_notebook(path: Path, cells: list[str], outputs: dict[int, list] | None = None) -> None:
    "A notebook of code cells."
    made = [{"cell_type": "code", "id": f"cell{i}", "metadata": {}, "execution_count": None,
             "source": text, "outputs": (outputs or {}).get(i, [])} for i, text in enumerate(cells)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4,
                                "nbformat_minor": 5}))


def environment(home: Path) -> dict[str, str]:
    "Nothing of the user's: no settings, no history, no files beside the server's own."
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "JPY", "IPYTHON"))}
    folders = {"HOME": home, "IPYTHONDIR": home / "ipython", "XDG_CONFIG_HOME": home / "xdg",
               "XDG_CACHE_HOME": home / "cache", "XDG_DATA_HOME": home / "share",
               "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data",
               "JUPYTER_RUNTIME_DIR": home / "runtime",
               "JUPYTERLAB_SETTINGS_DIR": home / "settings",
               "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces"}
    return kept | {k: str(v) for k, v in folders.items()} | {
        "JUPYTER_NO_CONFIG": "1", "JUPYTER_PREFER_ENV_PATH": "1", "OMP_NUM_THREADS": "1"}


def trust(notebook: Path, home: Path) -> None:
    "Sign a notebook, as a server does for what was run on it: its outputs may be more than text."
    command = [sys.executable, "-m", "jupyter", "trust", str(notebook)]
    subprocess.run(command, env=environment(home), check=True, capture_output=True, timeout=300)


class Lab:
    "A running server: where it is, and how to ask it."

    def __init__(self, port: int, token: str, process: subprocess.Popen):
        self.url, self.token, self.process = f"http://127.0.0.1:{port}", token, process

    def ask(self, path: str, method: str = "GET", timeout: float = 60) -> str:
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.read().decode()


@contextlib.contextmanager
def jupyterlab(folder: Path, home: Path, seconds: float = 300) -> Iterator[Lab]:
    "A server for the notebooks in `folder`; its kernels and it are gone afterwards."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    settings = home / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [sys.executable, "-m", "jupyterlab", *LAB, f"--ServerApp.port={port}",
               f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    with open(home / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment(home), stdout=log,
                                   stderr=subprocess.STDOUT, start_new_session=True)
    lab = Lab(port, token, process)
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                lab.ask("/api/status")
                break
            except OSError:
                late = time.monotonic() > end
                if late or process.poll() is not None:
                    raise RuntimeError((home / "server.log").read_text()[-3000:]) from None
                time.sleep(0.2)
        yield lab
    finally:
        stop(lab)


def stop(lab: Lab) -> None:
    "End the kernels, then the server; no process of theirs is left."
    import psutil  # which ipykernel brings

    kernels = []
    with contextlib.suppress(psutil.Error):
        kernels = psutil.Process(lab.process.pid).children(recursive=True)
    with contextlib.suppress(OSError, ValueError):
        for session in json.loads(lab.ask("/api/sessions")):
            lab.ask(f"/api/sessions/{session['id']}", "DELETE", 20)
    lab.process.terminate()
    try:
        lab.process.wait(60)
    except subprocess.TimeoutExpired:
        lab.process.kill()
        lab.process.wait(15)
    for kernel in psutil.wait_procs(kernels, timeout=5)[1]:  # those that outlive their server
        with contextlib.suppress(psutil.Error):
            kernel.kill()
