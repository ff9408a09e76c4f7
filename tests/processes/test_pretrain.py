"""The main job as people run it: real files, real processes, kills, resumes, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.waiting import PATIENCE

from vicmae.cli import main
from vicmae.backbone.checkpoints import load_model
from vicmae.errors import DataError
from vicmae.pretraining.job import pretrain as train
from vicmae.pretraining.job import probe_notes
from vicmae.pretraining.recipes import get_recipe
from vicmae.run.folder import RunFolder
from support import SAMPLES, torchrun

ENV = dict(os.environ)
SAME = ("step", "loss", "loss_recon", "loss_contrast", "lambda", "lr", "grad_norm")


def vicmae(*args: str, wait: bool = True):
    "Run the command; the finished process, or the running one."
    command = [sys.executable, "-m", "vicmae.cli", *map(str, args)]
    if wait:
        return subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=PATIENCE)
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV
    )


def pretrain(out: Path, *args: str, data: Path = None, wait: bool = True):
    "The debug recipe on a few files."
    return vicmae("pretrain", "--recipe", "debug", "--data", data, "--out", out, *args, wait=wait)


def curve(out: Path) -> list[tuple]:
    "What must be equal, step by step."
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [tuple(row[key] for key in SAME) for row in rows]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    "Sixteen clips and eight pictures of the samples, in folders by class."
    folder = tmp_path_factory.mktemp("few")
    files = (
        sorted(SAMPLES.glob("clips/*/*.mp4"))[::3][:16]
        + sorted(SAMPLES.glob("pictures/*/*"))[::7][:8]
    )
    for file in files:
        target = folder / file.relative_to(SAMPLES)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return folder


@pytest.fixture(scope="module")
def whole(few, tmp_path_factory) -> Path:
    "A run that nobody disturbed."
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = pretrain(out, "--steps", "24", "--batch-size", "8", data=few)
    assert done.returncode == 0, done.stderr
    return out


def test_leaves_what_it_promises(whole):
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 25))
    assert set(rows[0]) == set(SAME) | {"skipped", "seconds", "data_s", "other_s", "pairs_per_s"}
    assert rows[0]["lambda"] < rows[-1]["lambda"] == 0.1
    for name in ("loss.png", "reconstruction.png"):
        assert (whole / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((whole / "status.json").read_text())["state"] == "finished"
    assert load_model(whole).config == load_model(RunFolder(whole).checkpoints()[0]).config
    assert json.loads((whole / "config.json").read_text())["steps"] == 24


def test_tensorboard_gets_every_row(whole):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = events.EventAccumulator(str(whole / "tensorboard"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [
        (row[0], pytest.approx(row[1])) for row in curve(whole)
    ]


@pytest.mark.floats
def test_killed_at_any_moment_and_resumed_it_is_the_same_run(few, whole, tmp_path):
    out = tmp_path / "killed"
    args = "--steps", "24", "--batch-size", "8", "--checkpoint-every", "4", "--resume"
    kills = 0
    for moment in (1, 7, 13):  # kill -9 when so many steps are in the file
        process = pretrain(out, *args, data=few, wait=False)
        while process.poll() is None:
            if (out / "metrics.jsonl").exists() and len(curve(out)) >= moment:
                process.kill()
                kills += 1
                break
            time.sleep(0.005)
        process.communicate()
    assert kills >= 2
    done = pretrain(out, *args, data=few)
    assert done.returncode == 0, done.stderr
    assert curve(out) == curve(whole)  # bit for bit, no step twice, none missing
    evals = RunFolder(out).evals()
    assert {24} <= {row["step"] for row in evals} <= set(range(4, 25, 4))  # one may miss at a kill
    assert evals[-1] == RunFolder(whole).evals()[-1]
    again = pretrain(out, *args, data=few)  # a finished run
    assert again.returncode == 0 and curve(out) == curve(whole)
    weights = [load_model(run).state_dict() for run in (out, whole)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.clocks
def test_a_signal_saves_and_stops(few, whole, tmp_path):
    out = tmp_path / "stopped"
    process = pretrain(out, "--steps", "24", "--batch-size", "8", data=few, wait=False)
    while not ((out / "metrics.jsonl").exists() and curve(out)):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    stdout, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode in (143, 0) and ("--resume" in stdout or process.returncode == 0)
    assert RunFolder(out).checkpoints()
    done = pretrain(out, "--steps", "24", "--batch-size", "8", "--resume", data=few)
    assert done.returncode == 0 and curve(out) == curve(whole)


def test_a_damaged_checkpoint_is_passed_over(few, whole, tmp_path):
    out = tmp_path / "damaged"
    shutil.copytree(whole, out)
    args = "--batch-size", "8", "--steps", "28", "--resume"
    assert pretrain(out, *args, data=few).returncode == 0  # two checkpoints now: 24, 28
    newest = RunFolder(out).checkpoints()[0]
    newest.write_bytes(newest.read_bytes()[:5000])
    done = pretrain(out, *args, data=few)
    assert done.returncode == 0 and "passed over" in done.stdout and newest.name in done.stdout
    assert [row[0] for row in curve(out)] == list(range(1, 29))


@pytest.mark.floats
@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_change_nothing(few, whole, tmp_path, workers):
    out = tmp_path / "run"
    done = pretrain(out, "--steps", "24", "--batch-size", "8", "--num-workers", workers, data=few)
    assert done.returncode == 0 and curve(out) == curve(whole)


@pytest.mark.floats
def test_two_processes(few, tmp_path):
    args = "--steps", "3", "--batch-size", "8", "--precision", "fp32"
    command = [
        *torchrun(2),
        "-m",
        "vicmae.cli",
        "pretrain",
        "--recipe",
        "debug",
        "--data",
        few,
        "--out",
        tmp_path / "two",
        *args,
    ]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=ENV, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert pretrain(tmp_path / "one", *args, data=few).returncode == 0
    for one, two in zip(curve(tmp_path / "one"), curve(tmp_path / "two")):
        assert one == pytest.approx(two, rel=5e-4)
    one, two = (RunFolder(tmp_path / name).evals() for name in ("one", "two"))  # without labels
    assert [row["step"] for row in one] == [3] and one[0]["align_uniform"] < 2
    assert one == [pytest.approx(row, rel=1e-3) for row in two]


def test_a_run_is_not_overwritten(few, whole, tmp_path):
    done = pretrain(whole, "--steps", "24", "--batch-size", "8", data=few)
    assert done.returncode == 2 and "--resume" in done.stderr and "Traceback" not in done.stderr
    done = pretrain(
        whole, "--steps", "24", "--batch-size", "8", "--lam", "0.3", "--resume", data=few
    )
    assert done.returncode == 2 and "lam was 0.1" in done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    done = pretrain(tmp_path / "other", "--steps", "1", "--batch-size", "8", data=few)
    assert done.returncode == 0 and (tmp_path / "other" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_bad_files_do_not_stop_it(few, tmp_path, cache):
    data = tmp_path / "data"
    shutil.copytree(few, data)
    good = sorted(data.glob("clips/*/*.mp4"))[0].read_bytes()
    bad = data / "clips" / "bad"
    bad.mkdir()
    (bad / "empty.mp4").write_bytes(b"")
    (bad / "text.mp4").write_text("not a video")
    (bad / "cut.mp4").write_bytes(good[: len(good) // 2])
    (bad / "zeros.mp4").write_bytes(bytes(10_000))
    (bad / "dangling.mp4").symlink_to("nowhere.mp4")
    (bad / "folder.mp4").mkdir()
    os.mkfifo(bad / "pipe.mp4")
    (bad / "empty.jpg").write_bytes(b"")
    out = tmp_path / "run"
    done = pretrain(out, "--steps", "10", "--batch-size", "16", "--cache", cache, data=data)
    assert done.returncode == 0 and len(curve(out)) == 10, done.stderr
    skipped = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert all(Path(entry["path"]).name in entry["reason"] for entry in skipped)
    if cache == "memory":
        assert len(skipped) == 8
    assert "could not be read" in done.stdout


@pytest.mark.parametrize(
    "args, word",
    [
        (("--data", "no/such/folder"), "no/such/folder"),
        (("--data", str(Path(__file__).parent)), "holds no"),
        (("--no-such-option", "1"), "no-such-option"),
        (("--recipe", "huge"), "debug"),
        (("--mask-ratio", "1.5"), "mask_ratio"),
        (("--device", "tpu"), "tpu"),
        (("--frames", "sometimes"), "sometimes"),
        (("--model", "resnet50"), "vicmae_vit_debug"),
        (("--steps", "0"), "give a whole number, 1 or more"),
        (("--batch-size", "9", "--accum-iter", "2", "--steps", "2"), "accum_iter"),
    ],
)
def test_bad_options_get_a_sentence(args, word, tmp_path, capsys):
    command = ["pretrain", "--recipe", "debug", "--data", SAMPLES, "--out", tmp_path / "run", *args]
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in command])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "Traceback" not in said, said
    assert word in said.replace("\n", " "), said


def pictures(root: Path, shift: int = 0, **counts: int) -> Path:
    "Small pictures by class, of one colour a class and some noise."
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([number, i, shift])
            pixels = rng.integers(0, 120, (40, 40, 3)) + np.eye(3, dtype=int)[number % 3] * 130
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{shift}_{i}_.png")
    return root


def flat(root: Path, source: Path) -> Path:
    "The same pictures without labels."
    root.mkdir()
    for path in source.rglob("*.png"):
        shutil.copy(path, root / f"{path.parent.name}_{path.name}")
    return root


@pytest.fixture(scope="module")
def sides(tmp_path_factory) -> Path:
    "Training pictures with and without labels, and pictures to ask about."
    root = tmp_path_factory.mktemp("sides")
    flat(root / "flat", pictures(root / "train", cat=12, dog=12))
    pictures(root / "val", 1, cat=10, dog=10)
    pictures(root / "imbalanced", 2, cat=32, dog=4, owl=4)
    pictures(root / "others", 3, red=10, green=10)
    pictures(root / "single", 4, cat=10)
    pictures(root / "lonely", 5, cat=1, dog=1, owl=1)
    return root


def short(sides: Path, out: Path, data: str, val: str):
    "Two steps of the debug recipe on pictures, in this process."
    return replace(get_recipe("debug"), data=str(sides / data), val_data=str(sides / val), steps=2,
                   batch_size=8, img_size=32, out=str(out), tensorboard=False)


@pytest.mark.parametrize(
    "val, word",
    [
        ("nowhere", "does not exist"),
        ("flat", "has no label"),
        ("single", "one class alone .cat."),
        ("lonely", "only one class with two files"),
    ],
)
def test_val_data_is_looked_at_before_the_first_step(sides, tmp_path, val, word):
    data = "flat" if val == "lonely" else "train"
    config = short(sides, tmp_path / "run", data, val)
    for act in (train, probe_notes):  # the run, and what a dry run asks
        with pytest.raises(DataError, match=word):
            act(config)
    assert not (tmp_path / "run/metrics.jsonl").exists()


@pytest.mark.parametrize(
    "data, val, files, words",
    [
        ("train", "val", 20, []),
        ("flat", "val", 4, ["taken from", "has a label"]),  # labels on one side alone
        ("train", "others", 4, ["taken from", "fewer than two"]),  # labels that do not overlap
        ("train", "train", 4, ["24 of 24 files", "as well"]),  # what is trained on
        ("imbalanced", "val", 20, ["(owl) has no file to test on"]),  # 80 % in the first class
        ("train", "imbalanced", 36, ["4 files", "owl", "89% of the test files"]),
    ],
)
def test_accuracies_come_from_files_that_fit(sides, tmp_path, capsys, data, val, files, words):
    assert train(short(sides, tmp_path / "run", data, val)) == 0
    said, row = capsys.readouterr().out, json.loads((tmp_path / "run/evals.jsonl").read_text())
    assert f"on {files} unseen files: kNN {row['knn']:.3f} (" in said and "done" in said
    assert 0 <= row["linear"] <= 1 and all(word in said for word in words), said
    if not words:
        assert "note:" not in said
        assert row["linear"] == row["knn"] == 1  # colours tell these classes apart


def test_files_to_ask_about_that_cannot_be_read_lose_no_training(sides, tmp_path, capsys):
    for name in ("cat", "dog"):
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "val" / name / f"{i}.png").write_bytes(b"no picture")
    config = replace(short(sides, tmp_path / "run", "train", "val"), val_data=str(tmp_path / "val"))
    assert train(config) == 0
    assert "no accuracy on --val-data" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/status.json").read_text())["state"] == "finished"


OLD = Path(__file__).parents[1] / "old_run"  # three of six steps, by the code of October 2026
SMALL = dict(patch_size=16, embed_dim=8, depth=1, num_heads=2, decoder_embed_dim=8, decoder_depth=1,
             decoder_num_heads=2, img_size=32, projector_hidden_dim=8, projector_out_dim=4)


@pytest.mark.floats
def test_a_run_that_was_written_before_goes_on(tmp_path):
    "Folder, checkpoint and moments are read; the rest of the curve is what it would have been."
    run = RunFolder(tmp_path / "run")
    shutil.copytree(OLD, run.path)
    config = replace(get_recipe("debug"), data=str(SAMPLES / "pictures/ring"), out=str(run),
                     batch_size=4, checkpoint_every=3, tensorboard=False, device="cpu",
                     precision="fp32", measure_every=0, resume=True, **SMALL)
    assert train(config) == 0
    expected = [json.loads(line) for line in (OLD / "expected.jsonl").read_text().splitlines()]
    rows = run.metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, wanted in zip(rows, expected):
        assert [row[key] for key in SAME] == pytest.approx([wanted[key] for key in SAME], rel=1e-4)
    assert run.status()["state"] == "finished" and run.settings()[0]["steps"] == 6


def test_a_second_process_is_kept_out(few, tmp_path):
    out = tmp_path / "run"
    lock = RunFolder(out)
    lock.lock()
    try:
        done = pretrain(out, "--steps", "2", "--batch-size", "8", data=few)
    finally:
        lock.unlock()
    assert done.returncode == 2 and f"process {os.getpid()} on" in done.stderr
    assert "Traceback" not in done.stderr and not out.exists()
