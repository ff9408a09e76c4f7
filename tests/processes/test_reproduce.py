"""Experiments are run by several processes: stopped or killed at any moment, no line is lost."""
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import ROOT
from support.waiting import PATIENCE
from vicmae.experiments.grids import EXPERIMENTS

SCRIPT = """
import sys
from pathlib import Path
from vicmae.errors import UserError
from vicmae.experiments import lab
from vicmae.experiments.grids import get_experiment
from vicmae.experiments.reproduce import items_of, run_items
SHORT = {"clips": 64, "num_frames": 2, "steps": 6, "batch_size": 32, "img_size": 16}
lab.ASKED, lab.LEARNED, lab.CLIPS = 60, 60, 30  # here and in the workers, which import this file
if __name__ == "__main__":
    folder, more = Path(sys.argv[1]), eval(sys.argv[2])
    items = items_of(get_experiment("frames"), range(2), ["same", "distant"], {**SHORT, **more})
    try:
        lines, wrong = run_items(items, folder / "lines.jsonl", 2, folder=str(folder / "films"))
    except UserError as error:
        sys.exit(f"one sentence: {error}")
    print(len(lines), "lines,", len(wrong), "failed", *wrong)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A place with the films, which are drawn once."""
    place = tmp_path_factory.mktemp("reproduce")
    (place / "ask.py").write_text(SCRIPT)
    done = ask(place, {})
    assert done.returncode == 0 and "4 lines, 0 failed" in done.stdout, done.stderr[-2000:]
    return place


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def ask(place, more):
    return subprocess.run([sys.executable, str(place / "ask.py"), str(place), repr(more)],
                          capture_output=True, text=True, timeout=PATIENCE, env=environment())


def start(place, more):
    return subprocess.Popen([sys.executable, str(place / "ask.py"), str(place), repr(more)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=environment(), start_new_session=True)


def rows(place):
    path = place / "lines.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def children(pid):
    """The processes of a parent that work on runs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rsplit(")", 1)[1].split()
            command = path.with_name("cmdline").read_bytes().decode().replace("\0", " ")
        except (OSError, IndexError):
            continue
        if int(words[1]) == pid and "spawn_main" in command:
            found.append(int(path.parent.name))
    return found


def wait_for(happened, process):
    """Until something has happened, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while not happened() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert happened(), process.communicate()[1][-2000:] if process.poll() is not None else "late"


def lines_of(place, steps):
    return [row for row in rows(place) if row["changes"]["steps"] == steps]


def test_all_runs_are_there_and_say_where_they_come_from(folder):
    four = lines_of(folder, 6)
    assert [(r["variant"], r["seed"]) for r in four] and len(four) == 4
    assert {(r["variant"], r["seed"]) for r in four} == {(v, s) for v in ("same", "distant")
                                                          for s in (0, 1)}
    for row in four:
        assert row["versions"]["torch"] and row["hardware"] and row["trace"] and row["seconds"] > 0
    before = (folder / "lines.jsonl").read_bytes()
    again = ask(folder, {})
    assert "4 of 4 runs are in" in again.stdout and "4 lines, 0 failed" in again.stdout
    assert (folder / "lines.jsonl").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("how", ("killed", "interrupted"))
def test_what_is_done_when_it_ends_early_is_kept(folder, how):
    steps = {"killed": 40, "interrupted": 41}[how]
    process = start(folder, {"steps": steps})
    wait_for(lambda: lines_of(folder, steps), process)
    workers = children(process.pid)
    if how == "killed":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    kept = lines_of(folder, steps)
    assert kept
    if how == "interrupted" and len(kept) < 4:
        assert "the same command goes on" in out, err[-2000:]
    end = time.monotonic() + PATIENCE
    alive = lambda: [p for p in workers if Path(f"/proc/{p}").exists()
                     and ") Z" not in Path(f"/proc/{p}/stat").read_text()]
    while alive() and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive(), "workers outlive their parent"
    done = ask(folder, {"steps": steps})
    assert "4 lines, 0 failed" in done.stdout, done.stderr[-2000:]
    assert lines_of(folder, steps)[:len(kept)] == kept and len(lines_of(folder, steps)) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_killed_worker_is_one_sentence(folder):
    process = start(folder, {"steps": 4000})
    wait_for(lambda: len(children(process.pid)) == 2, process)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and "one sentence: a process of a run was killed" in err
    assert "Traceback" not in err, err[-2000:]


def test_a_run_that_fails_is_named_and_the_others_go_on(folder):
    done = ask(folder, {"steps": 7, "batch_size": 4096})  # more than clips: smaller
    assert "4 lines, 0 failed" in done.stdout, done.stderr[-2000:]
    done = ask(folder, {"steps": 7, "img_size": 12})  # no multiple of a patch
    assert "0 lines, 4 failed" in done.stdout, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "img_size" in done.stdout


@pytest.mark.parametrize("words, said", (
    (["frame"], "did you mean frames?"), (["frames", "--only", "nothing"], "unknown variant"),
    (["frames", "--seeds", "0"], "--seeds of 1 or more")))
def test_bad_input_is_one_sentence(words, said, tmp_path):
    done = subprocess.run([sys.executable, "-m", "vicmae", "reproduce", *words], cwd=tmp_path,
                          capture_output=True, text=True, timeout=PATIENCE, env=environment())
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_dry_run_writes_nothing(tmp_path):
    done = subprocess.run([sys.executable, "-m", "vicmae", "reproduce", "gaps", "--dry-run"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE,
                          env=environment())
    runs = len(EXPERIMENTS["gaps"].variants)
    assert done.returncode == 0 and f"{runs} runs" in done.stdout and not list(tmp_path.iterdir())
