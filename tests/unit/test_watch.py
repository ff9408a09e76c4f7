"""Watching a run: files that grow, break and are cut back meanwhile; terminals, pipes, kernels."""

import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from support.waiting import PATIENCE

from vicmae.cluster.follow import RunReader, Tail, curves_of, headline, skipped_steps
from vicmae.cluster.watch import draw_run, text_frame

pytestmark = pytest.mark.clocks

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "TERM": "xterm"}
WATCH = (
    "import sys; from vicmae.cluster.watch import watch;"
    "watch(sys.argv[1], every=0.2, **eval(sys.argv[2]))"
)


def row(step: int, **more) -> dict:
    "One step as a run logs it."
    losses = {"loss": 2 / step, "loss_recon": 1 / step, "loss_contrast": 4.0, "grad_norm": 1.0}
    return {"step": step, **losses, "pairs_per_s": 320.0, "seconds": 0.1, "skipped": 0.0} | more


def text(rows: list[dict]) -> str:
    return "".join(json.dumps(r) + "\n" for r in rows)


def make_run(folder: Path, rows: list[dict], steps: int = 100, state: str = "") -> Path:
    "A run's folder."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"steps": steps, "batch_size": 32}))
    (folder / "metrics.jsonl").write_text(text(rows))
    if state:
        status = {"state": state, "step": len(rows), "steps": steps, "reason": ""}
        (folder / "status.json").write_text(json.dumps(status))
    return folder


def command(run: Path, **options) -> list[str]:
    return [sys.executable, "-c", WATCH, str(run), repr(options)]


def watch_piped(run: Path, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(run, **options), capture_output=True, text=True, env=ENV, timeout=PATIENCE
    )


class Terminal:
    "A process in a terminal of its own, 24 lines of 90 characters; what it wrote, as it comes."

    def __init__(self, args: list[str]):
        self.master, slave = pty.openpty()
        env = ENV | {"COLUMNS": "90", "LINES": "24"}
        self.process = subprocess.Popen(args, stdin=slave, stdout=slave, stderr=slave, env=env)
        os.close(slave)
        self.written = ""

    def until(self, what, seconds: float = PATIENCE) -> bool:
        "Read until `what(written)` holds or the process ends."
        end = time.monotonic() + seconds
        while not what(self.written) and time.monotonic() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    self.written += os.read(self.master, 1 << 16).decode("utf-8", "replace")
                except OSError:  # the other side is closed
                    break
            elif self.process.poll() is not None:
                break
        return what(self.written)


# ---------------------------------------------------------------- reading while another writes
WRITER = textwrap.dedent("""
    import os, random, sys, time
    path, how, lines = sys.argv[1], sys.argv[2], open(sys.argv[3]).read().splitlines(True)
    random.seed(0)
    def write(text):
        with open(path, "a") as file:
            while text:
                n = random.randint(1, 900)
                file.write(text[:n]); file.flush(); text = text[n:]; time.sleep(0.001)
    write("".join(lines[:700]) + lines[700][:40])       # killed in the middle of a line
    kept = "".join(lines[:400])
    if how == "replaced":
        with open(path + ".tmp", "w") as file: file.write(kept)
        os.replace(path + ".tmp", path)
    else:                                               # in place, and grown again at once
        with open(path, "r+") as file: file.truncate(len(kept))
    write("".join(lines[400:]))
""")


@pytest.mark.parametrize("how", ["replaced", "truncated"])
def test_reads_while_a_process_writes_and_a_resumed_run_cuts_back(tmp_path, how):
    lines = [row(i, seconds=i / 7) for i in range(1, 1501)]
    (tmp_path / "lines").write_text(text(lines))
    file = tmp_path / "metrics.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, file, how, tmp_path / "lines"])
    tail, looks, fell = Tail(file), 0, False
    before = 0
    while process.poll() is None or tail.read():
        tail.read()
        steps = tail.rows["step"]
        assert (steps == np.arange(1, len(steps) + 1)).all()  # no gap, no double, at any time
        fell |= len(steps) < before
        before, looks = len(steps), looks + 1
        time.sleep(0.003)
    assert process.returncode == 0 and looks > 20 and fell
    np.testing.assert_array_equal(tail.rows["seconds"], [r["seconds"] for r in lines])


def test_a_half_line_waits_for_its_end(tmp_path):
    file, tail = tmp_path / "metrics.jsonl", Tail(tmp_path / "metrics.jsonl")
    assert not tail.read() and tail.rows.length == 0  # not there yet
    whole = text([row(1), row(2)])
    for cut in range(len(whole) + 1):  # looked at after every single byte
        file.write_text(whole[:cut])
        tail.read()
        assert tail.rows["step"].tolist() == list(range(1, whole[:cut].count("\n") + 1))


def test_a_file_that_grew_past_the_old_place_while_nobody_looked(tmp_path):
    file, tail = tmp_path / "metrics.jsonl", Tail(tmp_path / "metrics.jsonl")
    file.write_text(text([row(i) for i in range(1, 101)]))
    while tail.read():
        pass
    again = [row(i, **({"loss": 9.0, "seconds": 0.2} if i > 50 else {})) for i in range(1, 301)]
    (tmp_path / "new").write_text(text(again))
    os.replace(tmp_path / "new", file)
    while tail.read():
        pass
    assert tail.rows.length == 300 and (tail.rows["loss"][50:] == 9.0).all()


def test_damage_is_passed_over(tmp_path):
    good, zeros = [row(i) for i in range(1, 201)], "\0" * 200_000  # what a power cut leaves
    damaged = text(good[:100]) + zeros + "\n" + '{"step": 3, "lo\n[1, 2]\n7\n' + text(good[100:])
    reader = RunReader(make_run(tmp_path / "run", [], steps=300))
    (tmp_path / "run" / "metrics.jsonl").write_text(damaged)
    (tmp_path / "run" / "status.json").write_text('{"state": "runn')
    (tmp_path / "run" / "evals.jsonl").write_bytes(
        b"\xff\xfe\n"
        + text([{"step": 9, "knn": 0.5}, {"step": 12, "align_uniform": -1.0}]).encode()
    )
    reader.poll()
    assert reader.metrics["step"].tolist() == list(range(1, 201))
    assert reader.state == "running" and "kNN 0.500 at step 9" in headline(reader)


def test_an_evaluation_of_an_undone_future_is_not_drawn():
    steps = (10, 20, 30, 40, 20, 30)
    curve = curves_of([{"step": s, "knn": i / 10} for i, s in enumerate(steps)])["knn"]
    assert curve.x.tolist() == [10, 20, 30] and curve.y.tolist() == [0, 0.4, 0.5]


# ---------------------------------------------------------------- what there is to draw
NAN, INF = "nan", "inf"
CASES = {
    "no rows": [],
    "one row": [row(1)],
    "all nan": [
        row(i, loss=NAN, loss_recon=NAN, loss_contrast=NAN, grad_norm=NAN, skipped=1.0)
        for i in range(1, 20)
    ],
    "some nan": [
        row(i, **({"loss": NAN, "grad_norm": INF, "skipped": 1.0} if i % 7 == 0 else {}))
        for i in range(1, 50)
    ],
    "bare NaN": [
        row(i, loss_recon=math.nan if i == 3 else 1.0, grad_norm=math.inf) for i in range(1, 9)
    ],
    "constant": [row(i, loss_recon=0.0, lr=1e-4) for i in range(1, 30)],
    "huge": [row(i, loss_recon=10.0 ** (i * 3), grad_norm=-(10.0**-i)) for i in range(1, 30)],
    "old rows": [
        {k: v for k, v in row(i).items() if k not in ("seconds", "skipped")} for i in range(1, 30)
    ],
    "odd rows": [row(1, note="text", list=[1]), {"loss": 1.0}, row(3, loss_recon=None)],
    "everything": [
        row(
            i,
            **dict.fromkeys(
                ("rank", "std", "uniformity", "alignment", "data_s", "lr", "lambda"), i
            ),
        )
        for i in range(1, 400)
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_whatever_is_logged_can_be_drawn(tmp_path, name):
    reader = RunReader(make_run(tmp_path / "run", CASES[name]))
    reader.poll()
    for width in (20, 41, 80, 200):
        for height in (None, 10, 24, 60):
            lines = text_frame(reader, width, height).splitlines()
            if width >= 80:
                assert max(map(len, lines)) <= width and (height or 99) >= min(len(lines), 12)
    draw_run(reader).savefig(tmp_path / "run.png")
    assert (tmp_path / "run.png").stat().st_size > 2000


def test_the_ends_of_the_axis_are_written(tmp_path):
    reader = RunReader(make_run(tmp_path / "run", CASES["constant"]))
    reader.poll()
    ends = re.findall(r"│ (\S+)$", text_frame(reader, 40), re.M)
    assert ends[:4] == ["1e-09", "-1e-09", "6", "2"]  # around a constant 0, a constant 4


def test_skipped_steps_are_counted(tmp_path):
    reader = RunReader(make_run(tmp_path / "run", CASES["some nan"]))
    reader.poll()
    assert skipped_steps(reader.metrics).tolist() == list(range(7, 50, 7))
    assert "7 skipped" in headline(reader)


def test_a_frame_fits_the_terminal(tmp_path):
    reader = RunReader(make_run(tmp_path / "run", CASES["everything"], steps=1000))
    reader.poll()
    for width, height in ((80, 24), (120, 30), (200, 60), (90, 12)):
        lines = text_frame(reader, width, height).splitlines()
        assert len(lines) <= height and max(map(len, lines)) <= width
    assert "1 min left" in headline(reader) or "60 s left" in headline(reader)


def test_a_run_that_stands_still_is_named(tmp_path):
    run = make_run(tmp_path / "run", [row(1)], state="running")
    os.utime(run / "metrics.jsonl", (time.time() - 3600,) * 2)
    reader = RunReader(run)
    reader.poll()
    assert "no step for 60 min: is it alive?" in headline(reader)


def test_several_runs_in_one_picture(tmp_path):
    first = make_run(tmp_path / "a $run", [row(i) for i in range(1, 30)], state="finished")
    second = make_run(tmp_path / "b_run", [row(i, loss_recon=NAN, knn=0.5) for i in range(1, 9)])
    (second / "config.json").write_text("{cut")
    (second / "status.json").write_bytes(b"\xff\x00")
    readers = [RunReader(first), RunReader(second)]
    for reader in readers:
        reader.poll()
    shown = text_frame(readers, 84)
    assert "a $run · finished" in shown and "config.json is damaged" in " ".join(shown.split())
    assert "contrastive loss 4 | 4" in shown and "reconstruction loss 0.03448 | -" in shown
    assert "kNN accuracy - | 0.5" in shown
    fig = draw_run(first, readers[1])
    fig.savefig(tmp_path / "run.png")
    heads = [text.get_text() for text in fig.texts]
    assert len(heads) == 2 and heads[0].startswith("a ") and heads[1].startswith("b_run")
    with pytest.raises(ValueError, match="runs: name 1 to"):
        draw_run(*[first] * 40)


# ---------------------------------------------------------------- a million rows
def test_a_million_rows(tmp_path):
    run = make_run(tmp_path / "run", [], steps=1_000_000)
    line = text([row(1, rank=9.5, **{k: 0.123456789012345 for k in ("lr", "lambda", "data_s")})])
    line = line.replace('"step": 1,', '"step": %d,')
    with open(run / "metrics.jsonl", "w") as file:
        for start in range(0, 1_000_000, 10_000):
            file.writelines(line % i for i in range(start + 1, start + 10_001))
    size = (run / "metrics.jsonl").stat().st_size
    reader, times = RunReader(run), {}

    def timed(name, call):
        begun = time.process_time()
        result = call()
        times[name] = time.process_time() - begun
        return result

    assert not timed("first look", lambda: reader.poll(0.0))  # no time to read: a sample is there
    assert reader.step == 1_000_000 and 1000 < reader.metrics.length < 100_000
    assert timed("all", reader.poll) and reader.metrics.length == 1_000_000
    curves = timed("thin", lambda: curves_of(reader.metrics))
    assert len(curves["loss"].x) == 200 and curves["loss"].high[0] == 2.0
    with open(run / "metrics.jsonl", "a") as file:
        file.write(text([row(1_000_001)]))
    timed("one row more", reader.poll)
    assert reader.step == 1_000_001
    (run / "metrics.jsonl").unlink()
    print(size, times)
    # CPU seconds on two shared cores: 0.1, 4, 0.1, 0.001; on other machines their ratios
    assert max(times["first look"], times["thin"]) < times["all"] / 2
    assert times["one row more"] < times["all"] / 20


# ---------------------------------------------------------------- terminals and pipes
def test_no_run_gets_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    make_run(tmp_path / "many" / "a", [row(1)])
    for run, words in (("nowhere", "not there"), ("empty", "holds no run"), ("many", "name one")):
        done = watch_piped(tmp_path / run)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode == 1 and last.startswith("vicmae.errors.BadValue") and words in last


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_a_run_that_is_over_is_drawn_once(tmp_path, state):
    run = make_run(tmp_path / "run", CASES["everything"], steps=399, state=state)
    done = watch_piped(run, width=100)
    assert done.returncode == 0 and not done.stderr and "\x1b" not in done.stdout
    assert state in done.stdout and done.stdout.count("reconstruction loss") == 1
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_once_on_a_running_one(tmp_path):
    done = watch_piped(make_run(tmp_path / "run", [row(1), row(2)]), once=True)
    assert done.returncode == 0 and "step 2 of 100" in done.stdout and "\x1b" not in done.stdout


def test_a_terminal_without_unicode(tmp_path):
    run = make_run(tmp_path / "run", CASES["everything"], steps=399, state="finished")
    done = subprocess.run(
        command(run), capture_output=True, env=ENV | {"PYTHONIOENCODING": "ascii"}, timeout=PATIENCE
    )
    assert done.returncode == 0 and not done.stderr and b"reconstruction loss" in done.stdout
    assert all(byte < 128 for byte in done.stdout) and b"?" not in done.stdout


def test_a_reader_that_has_seen_enough(tmp_path):
    run = make_run(tmp_path / "run", [row(1)])  # never ends by itself
    watcher = subprocess.Popen(
        command(run), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENV
    )
    assert b"step 1 of 100" in watcher.stdout.readline()
    watcher.stdout.close()
    assert watcher.wait(timeout=PATIENCE) == 0 and b"Traceback" not in watcher.stderr.read()


def test_ctrl_c_leaves_quietly(tmp_path):
    terminal = Terminal(command(make_run(tmp_path / "run", [row(i) for i in range(1, 9)])))
    assert terminal.until(lambda t: "reconstruction loss" in t), terminal.written
    terminal.process.send_signal(signal.SIGINT)
    assert terminal.process.wait(timeout=PATIENCE) in (0, 130)
    terminal.until(lambda t: False, 1)
    assert "Traceback" not in terminal.written and "KeyboardInterrupt" not in terminal.written


def test_live_in_a_terminal_until_the_run_ends(tmp_path):
    more = dict.fromkeys(("rank", "std", "uniformity", "alignment", "data_s", "lr", "lambda"), 1)
    run = make_run(tmp_path / "run", [row(1, **more)], steps=60, state="running")
    terminal = Terminal(command(run))
    assert terminal.until(lambda t: "step 1 of 60" in t), terminal.written
    for i in range(2, 61):
        with open(run / "metrics.jsonl", "a") as file:
            file.write(text([row(i)]))
        time.sleep(0.01)
    assert terminal.until(lambda t: "step 60 of 60" in t), terminal.written
    make_run(run, [row(i) for i in range(1, 61)], steps=60, state="finished")
    assert terminal.until(lambda t: "finished" in t), terminal.written
    assert terminal.process.wait(timeout=PATIENCE) == 0
    assert terminal.written.count("\x1b[2J") == 1  # cleared once, then drawn over: no flicker
    frames = terminal.written.split("\x1b[H")[1:]
    assert len(frames) >= 3
    for frame in frames:  # none is taller or wider than the terminal
        lines = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", frame).rstrip().splitlines()
        assert len(lines) <= 24 and max(map(len, lines)) <= 90


# ---------------------------------------------------------------- in a kernel
def test_a_kernel_stays_free_and_an_interrupt_is_quiet(tmp_path):
    from jupyter_client.manager import start_new_kernel

    run = make_run(tmp_path / "run", [row(i) for i in range(1, 9)])
    manager, client = start_new_kernel(kernel_name="python3", env=ENV)
    outputs, errors = [], []

    def execute(code: str) -> dict:
        "Run a cell and note what is displayed meanwhile, by whichever cell."
        cell, idle = client.execute(code), False
        while not idle:
            message = client.get_iopub_msg(timeout=PATIENCE)
            kind, content = message["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                outputs.append((kind, set(content["data"]), content["transient"]["display_id"]))
            if kind == "error":
                errors.append(content)
            own = message["parent_header"].get("msg_id") == cell
            idle = own and kind == "status" and content["execution_state"] == "idle"
        return client.get_shell_msg(timeout=PATIENCE)["content"]

    try:
        code = f"from vicmae.cluster.watch import watch\nw = watch({str(run)!r}, every=0.1)\nw"
        assert execute(code)["status"] == "ok"
        pictures, begun = [], time.monotonic()
        while not pictures and time.monotonic() < begun + PATIENCE:  # other cells run, and it draws
            assert execute("import time; time.sleep(0.5); 1 + 1")["status"] == "ok"
            pictures = [o for o in outputs if "image/png" in o[1]]
        assert pictures and {o[0] for o in pictures} == {"update_display_data"}
        assert len({o[2] for o in pictures}) == 1  # always in the same place
        threading.Timer(1.5, manager.interrupt_kernel).start()
        assert execute("w.wait()\nprint('went on')")["status"] == "ok"
        assert execute("assert not w._thread.is_alive()")["status"] == "ok"
        before = len(outputs)
        execute(
            f"w = watch({str(run)!r}, every=0.1); v = watch({str(run)!r}, every=0.1)\nw.wait(5)"
        )
        assert execute("assert not w._thread.is_alive() and v._thread.is_alive()")["status"] == "ok"
        make_run(run, [row(i) for i in range(1, 101)], state="finished")
        assert execute("v.wait(300)\nassert not v._thread.is_alive()")["status"] == "ok"
        assert len(outputs) > before and not errors
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
