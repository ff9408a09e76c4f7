"""Fine-tuning, testing and predicting as people do it: real files, real processes, kills, ranks."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.waiting import PATIENCE

from vicmae.finetuning.batches import EvalViews
from vicmae.backbone.checkpoints import load_model
from vicmae.cli import main
from vicmae.evaluation.report import few as fewest
from vicmae.finetuning.classifier import score_model
from vicmae.finetuning.build import open_sets
from vicmae.finetuning.recipes import FINETUNE_RECIPES
from vicmae.finetuning.predict import load_classifier, predict
from vicmae.run.folder import RunFolder
from vicmae.train.weights import read_tensors, save_model
from vicmae.data.world import OBJECTS
from vicmae.data.worldfiles import write_world
from support import torchrun

ENV = dict(os.environ)
KILL = "import os\n" \
       "from vicmae.run.trainer import CALLBACKS, Callback\n" \
       "class Kill(Callback):\n" \
       "    def on_step(self, trainer, row):\n" \
       "        if row['step'] == {step} and ({late} or not trainer.start):\n" \
       "            os.kill(os.getpid(), {number})\n" \
       "CALLBACKS.append(Kill())\n" \
       "from vicmae.cli import main; main()"


def command(*args, ranks: int = 1, kill: str = "") -> subprocess.CompletedProcess:
    "`vicmae ARGS`, alone or under torchrun, perhaps with a signal in the middle."
    start = [sys.executable]
    if ranks > 1:
        start += torchrun(ranks)[1:]
    what = ["-c", kill] if kill else ["-m", "vicmae.cli"]
    return subprocess.run([*start, *what, *map(str, args)], capture_output=True, text=True,
                          env=ENV, timeout=PATIENCE)


class Done(NamedTuple):
    "How a command ended in this process."

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def here(capsys) -> Callable[..., Done]:
    "`vicmae ARGS` in this process, which has loaded torch already."
    def run(*args) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        return Done(ended.value.code, *capsys.readouterr())

    return run


def options(world: Path, out: Path, *more) -> list:
    "Ten steps on motion classes, with all that a run can have: mixed labels, an average, repeats."
    return ["finetune", "--recipe", "finetune_tiny_motion", "--data", world / "train",
            "--val-data", world / "val", "--out", out, "--steps", 10, "--batch-size", 16,
            "--checkpoint-every", 4, "--mixup", 0.8, "--cutmix", 1.0, "--repeats", 2, "--ema", 0.9,
            "--drop-path", 0.1, "--precision", "fp32", "--num-frames", 4, "--no-tensorboard", *more]


def losses(run: Path) -> list[tuple]:
    "What must be the same, step by step."
    return [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in
            RunFolder(run).metrics()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "classifier.safetensors")[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    "Clips with object and motion classes, pictures with object classes."
    folder = tmp_path_factory.mktemp("world")
    for split, clips, pictures in (("train", 42, 20), ("val", 14, 10)):
        write_world(folder / split, clips, pictures, split, num_frames=8, size=32, workers=1)
    return folder


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory) -> Path:
    "A run that nobody disturbed."
    run = tmp_path_factory.mktemp("whole") / "run"
    done = command(*options(world, run))
    assert done.returncode == 0, done.stderr
    assert re.search(r"on 14 test samples, 3 view\(s\) each: top1", done.stdout)
    return run


def test_what_a_run_leaves(whole, world):
    assert RunFolder(whole).status()["state"] == "finished"
    result = json.loads((whole / "test.json").read_text())
    assert result["n"] == 14 and result["views"] == [3, 1] and result["unreadable"] == 0
    assert set(result["per_class"]) == set(load_classifier(whole).classes)
    clips = sorted((world / "val/clips").rglob("*.mp4"))
    truth = {row.split(",")[0]: row.split(",")[3] for row in
             (world / "val/manifest.csv").read_text().splitlines()[1:]}
    found = list(predict(whole, clips))
    name = lambda p: str(Path(p.path).relative_to(world / "val"))
    right = np.mean([p.classes[0][0] == truth[name(p)] for p in found])
    assert right == pytest.approx(result["top1"], abs=1e-6)  # predict asks as the run was tested


@pytest.mark.floats
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_resumed_it_is_the_same_run(whole, world, tmp_path, number):
    run = tmp_path / "run"
    kill = KILL.format(step=7, late=False, number=int(number))
    done = command(*options(world, run), kill=kill)
    assert done.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGTERM:
        assert RunFolder(run).status()["state"] == "preempted"
    again = command(*options(world, run, "--resume"))
    assert again.returncode == 0, again.stderr
    assert losses(run) == losses(whole)
    mine, true = weights(run), weights(whole)  # the averaged ones
    assert mine.keys() == true.keys() and all(torch.equal(mine[k], true[k]) for k in true)


STILL = ("--drop-path", 0.0, "--steps", 4)  # drop path draws on each rank for itself


@pytest.fixture(scope="module")
def one(world, tmp_path_factory) -> Path:
    "Four steps of one process, to compare with."
    run = tmp_path_factory.mktemp("one") / "run"
    done = command(*options(world, run, *STILL))
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.floats
@pytest.mark.parametrize("more", [(), ("--parallel", "fsdp"), ("--accum-iter", 2)])
def test_two_ranks_are_one(one, world, tmp_path, more):
    two = tmp_path / "two"
    done = command(*options(world, two, *STILL, *more), ranks=2)
    assert done.returncode == 0, done.stderr
    for a, b in zip(losses(one), losses(two), strict=True):
        assert a == pytest.approx(b, rel=2e-4)
    mine, true = weights(two), weights(one)
    # a gradient that is 0 but for rounding is a step of Adam's in any direction
    close = {k: (mine[k] - v).abs().max().item() for k, v in true.items()}
    assert max(close.values()) < 2e-3 and np.median(list(close.values())) < 1e-4, close
    first, second = (json.loads((run / "test.json").read_text()) for run in (one, two))
    assert first["n"] == second["n"] == 14  # each test sample once, on any number of ranks


def test_pictures_and_single_frames(world, tmp_path, here):
    for kind in ("picture", "clip"):
        run = tmp_path / kind
        done = here("finetune", "--data", world / "train", "--val-data", world / "val", "--out",
                       run, "--kind", kind, "--steps", 3, "--batch-size", 8, "--no-tensorboard",
                       "--rand-augment", "rand-m9-mstd0.5-inc1", "--erase", 0.5)
        assert done.returncode == 0, done.stderr
    picture = next((world / "val/pictures").rglob("*.jpg"))
    said = here("predict", tmp_path / "picture", picture, "--top", 3)
    assert said.returncode == 0 and len(said.stdout.splitlines()) == 4
    shares = [float(line.split("%")[0]) for line in said.stdout.splitlines()[1:]]
    assert shares == sorted(shares, reverse=True)


def test_linear_probe_leaves_the_backbone_alone(world, tmp_path, here):
    run = tmp_path / "run"
    done = here("finetune", "--recipe", "linear_mae", "--init", "tiny", "--img-size", 32,
                   "--data", world / "train", "--val-data", world / "val", "--kind", "clip",
                   "--steps", 4, "--out", run, "--num-workers", 0, "--no-tensorboard")
    assert done.returncode == 0, done.stderr
    assert "batch size is 40 instead of 16384" in done.stdout
    before, after = load_model("tiny").state_dict(), weights(run)
    same = [k for k in after if k.startswith(("blocks", "norm", "patch_embed", "cls_token"))]
    assert len(same) > 30 and all(torch.equal(before[k], after[k]) for k in same)
    assert after["head.weight"].abs().max() > 0.01
    assert after["fc_norm.running_mean"].abs().max() > 0  # BatchNorm has seen features


def test_few_labels_are_even():
    config = FINETUNE_RECIPES["finetune_tiny_objects"]()
    config.data, config.val_split = str(Path(__file__).parents[2] / "data_samples"), "train"
    data, _ = open_sets(config)
    for limit in (10, 25, 40):
        counts = np.bincount(fewest(data, limit).targets, minlength=10)
        assert counts.sum() == limit and counts.max() - counts.min() <= 1
    assert fewest(data, 0) is data


def sentence(done: subprocess.CompletedProcess) -> str:
    "The one line of a refusal."
    assert done.returncode == 2, done.stdout + done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("vicmae ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_refusals(world, whole, tmp_path, here):
    say = lambda *more: sentence(here(*options(world, tmp_path / "run", *more)))
    assert "no such file" in say("--init", "nowhere.safetensors")
    assert "no good checkpoint" in say("--init", world)
    assert "classifier and not a vicmae" in say("--init", whole / "classifier.safetensors")
    assert "nothing" in say("--data", tmp_path / "nothing")
    assert "colour" in say("--label", "colour")
    assert "asks for clips" in say("--kind", "picture", "--label", "label")
    assert "finetune_k400_huge" in sentence(here("finetune", "--recipe", "finetune_k400_huge"))
    done = here(*options(world, whole, "--resume", "--mixup", 0.5))
    assert "mixup was 0.8, now 0.5" in sentence(done)


def test_other_classes_are_not_learned_on(world, tmp_path, here):
    "Renamed folders: as many classes as before, and the head's rows mean others."
    data, run = tmp_path / "data", tmp_path / "run"
    for split in ("train", "val"):
        for name in OBJECTS[:3]:
            shutil.copytree(world / split / "pictures" / name, data / split / name)
    learn = ("finetune", "--data", data, "--out", run, "--batch-size", 4, "--no-tensorboard")
    assert here(*learn, "--steps", 2).returncode == 0
    for split in ("train", "val"):
        (data / split / OBJECTS[0]).rename(data / split / "zebra")
    said = sentence(here(*learn, "--steps", 4, "--resume"))
    assert f"gone: {OBJECTS[0]}; new: zebra" in said


def test_a_finished_run_can_be_tested_again_and_gone_on_with(world, tmp_path, here):
    run = tmp_path / "run"
    assert here(*options(world, run, "--steps", 2)).returncode == 0
    assert here(*options(world, run, "--steps", 2, "--resume", "--test-clips", 7)).returncode == 0
    assert json.loads((run / "test.json").read_text())["views"] == [7, 1]
    said = sentence(here(*options(world, run, "--steps", 1, "--resume")))
    assert "has done 2 steps, more than the 1" in said
    kill = KILL.format(step=4, late=True, number=15)
    done = command(*options(world, run, "--steps", 6, "--resume"), kill=kill)
    assert done.returncode == 128 + signal.SIGTERM
    assert not (run / "test.json").exists()  # it was that of a shorter run
    assert load_classifier(run).classes


def test_a_signal_ends_a_test(world, tmp_path):
    run = tmp_path / "run"
    kill = "import os\n" \
           "from vicmae.run.trainer import CALLBACKS, Callback\n" \
           "class Kill(Callback):\n" \
           "    def before_step(self, trainer, batch, step):\n" \
           "        if trainer.config.eval_every and step == 1: os.kill(os.getpid(), 15)\n" \
           "    def on_save(self, trainer, step):\n" \
           "        if step == 4: os.kill(os.getpid(), 15)\n" \
           "CALLBACKS.append(Kill())\n" \
           "from vicmae.cli import main; main()"
    late = ("--steps", 4, "--batch-size", 8, "--test-clips", 7)
    done = command(*options(world, run, *late), kill=kill)
    assert done.returncode == 143 and "preempted after the last step" in done.stdout
    assert RunFolder(run).status()["state"] == "preempted" and not (run / "test.json").exists()
    early = tmp_path / "early"
    done = command(*options(world, early, *late, "--eval-every", 2), kill=kill)
    assert done.returncode == 143 and RunFolder(early).status()["step"] == 2  # saved where it stood
    done = command(*options(world, run, *late, "--resume"))
    assert done.returncode == 0 and json.loads((run / "test.json").read_text())["n"] == 14


@pytest.mark.floats
def test_statistics_of_a_probe_are_one_on_two_ranks(world, tmp_path):
    "The test is that of the model which is saved, whichever rank has done it."
    run = tmp_path / "run"
    done = command("finetune", "--recipe", "linear_mae", "--init", "tiny", "--img-size", 32,
                   "--data", world / "train", "--val-data", world / "val", "--kind", "clip",
                   "--batch-size", 4, "--steps", 6, "--blr", 30, "--out", run, "--num-workers", 0,
                   "--no-tensorboard", "--precision", "fp32", "--limit", 30, ranks=2)
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "test.json").read_text())
    _, test = open_sets(replace(FINETUNE_RECIPES["finetune_tiny_objects"](), kind="clip",
                                data=str(world / "train"), val_data=str(world / "val")))
    again, _ = score_model(load_classifier(run), EvalViews(test, 32))
    assert again.top1 == pytest.approx(result["top1"], abs=1e-6)
    assert np.nan_to_num(again.per_class) == pytest.approx(
        [value or 0 for value in result["per_class"].values()], abs=1e-5)


def test_predict_names_what_it_cannot_use(world, whole, tmp_path, here):
    clip = next((world / "val/clips").rglob("*.mp4"))
    bad = tmp_path / "cut.mp4"
    bad.write_bytes(clip.read_bytes()[:300])
    done = here("predict", whole, clip, bad)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stdout.count("%") == 5 and str(bad) in done.stdout
    twice = here("predict", whole, clip, clip.parent, "--top", 2)
    assert twice.returncode == 0 and twice.stdout.count(str(clip)) == 1
    assert "no file is named" in sentence(here("predict", whole))
    picture = next((world / "val/pictures").rglob("*.jpg"))
    assert "is a picture" in sentence(here("predict", whole, picture))
    assert "vicmae and not a classifier" in sentence(
        here("predict",
             Path(sys.modules["vicmae"].__file__).parent / "shipped/tiny.safetensors", clip))


def test_unreadable_files_are_named_and_replaced(world, tmp_path, here):
    data = tmp_path / "world"
    shutil.copytree(world, data)
    for split in ("train", "val"):
        for clip in sorted((data / split / "clips").rglob("*.mp4"))[:2]:
            clip.write_bytes(b"not a clip")
    for cache in ("none", "memory"):
        run = tmp_path / cache
        done = here(*options(data, run, "--cache", cache, "--steps", 6))
        assert done.returncode == 0, done.stderr
        assert json.loads((run / "test.json").read_text())["unreadable"] == 2
        rows = [json.loads(line) for line in (run / "skipped.jsonl").read_text().splitlines()]
        bad = {Path(row["path"]).parts[-4] for row in rows if "is text" in row["reason"]}
        assert bad == {"train", "val"} and len(rows) >= 3


def test_names_of_classes_travel_with_the_checkpoint(tmp_path, world, here):
    run = tmp_path / "run"
    done = here("finetune", "--data", world / "train", "--val-data", world / "val", "--out", run,
                   "--steps", 1, "--batch-size", 8, "--kind", "clip", "--no-tensorboard")
    assert done.returncode == 0, done.stderr
    model = load_classifier(run)
    assert model.classes == sorted(OBJECTS)
    copy = tmp_path / "copy.safetensors"
    save_model(copy, model)
    assert load_classifier(copy).classes == model.classes
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_classifier(copy)(x), model(x))
