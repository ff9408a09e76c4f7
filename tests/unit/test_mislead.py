"""No figure looks better than it is: what is refused, and what is said and stored beside it."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vicmae.errors import DataError
from vicmae.finetuning.job import finetune, planned
from vicmae.finetuning.build import open_sets
from vicmae.finetuning.recipes import FINETUNE_RECIPES, FinetuneConfig
from vicmae.finetuning.predict import load_classifier, predict, print_predictions
from vicmae.backbone.probes import metrics
from vicmae.pretraining.recipes import RECIPES, get_recipe
from vicmae.evaluation.report import (cautions, check_classes, describe_scores, score_table,
                                      shared_files)
from vicmae.pretraining.memory import describe
from vicmae.run.folder import RunFolder
from vicmae.evaluation.probe import EvaluateConfig, TransferConfig, evaluate, open_parts
from vicmae.evaluation.transfer import transfer
from vicmae.errors import CheckpointError
from vicmae.train.weights import read_tensors
from vicmae.data.world import OBJECTS, make_picture
from support import ROOT



def fill(root: Path, split: str, counts: tuple[int, ...], first: int = 0) -> Path:
    "Pictures of the first objects, so many of each, in folders by class."
    for o, count in enumerate(counts):
        folder = root / split / OBJECTS[o]
        folder.mkdir(parents=True)
        for i in range(count):
            frame = make_picture(first + 100 * o + i, size=32, object=o).frames[0]
            Image.fromarray(frame).save(folder / f"{i}.png")
    return root


def sets(root: Path, train: tuple[int, ...], val: tuple[int, ...]) -> Path:
    return fill(fill(root, "train", train), "val", val, first=5000)


def asking(data: Path | str, **changes) -> EvaluateConfig:
    base = EvaluateConfig(data=str(data), method="knn", workers=0, time_limit=None, cache="")
    return replace(base, **changes)


@pytest.fixture(scope="module")
def skewed(tmp_path_factory) -> Path:
    "Four files in five are of one class."
    return sets(tmp_path_factory.mktemp("skewed"), (16, 4), (8, 2))


# ---------------------------------------------------------------- values
@pytest.mark.parametrize("name, value", [
    ("k", 0), ("k", -1), ("k", 2.5), ("temperature", 0.0), ("temperature", -1.0),
    ("temperature", float("nan")), ("temperature", float("inf")), ("crop_pct", 2.0),
    ("crop_pct", 0.0), ("num_frames", 0), ("batch_size", 0), ("workers", -1), ("workers", 10**6),
    ("time_limit", 0.0), ("time_limit", float("nan")), ("seed", -1), ("num_heads", 0),
    ("pool", "median"), ("pool", "mean+"), ("method", "sgd"), ("device", "tpu"), ("kind", "film")])
def test_senseless_values_are_refused_before_a_file_is_opened(name, value):
    with pytest.raises(ValueError, match=f"{name} =|{value!r}|unknown pooling"):
        evaluate(asking("/no/such/folder", **{name: value}))
    if hasattr(TransferConfig(), name) and name != "pool":
        with pytest.raises(ValueError, match=name):
            transfer(replace(TransferConfig(data="/no/such/folder"), **{name: value}))


@pytest.mark.parametrize("name, value", [
    ("class_weights", "sqrt"), ("keep_best", True), ("time_limit", float("inf")), ("steps", 1.5),
    ("num_workers", 5000), ("decoder_num_heads", -2), ("optimizer", "adam"),
    ("rand_augment", "much")])
def test_fine_tuning_refuses_them_by_the_same_table(name, value):
    with pytest.raises(ValueError, match=name):
        replace(FinetuneConfig(), **{name: value}).check()


def test_every_recipe_of_pretraining_lies_in_the_ranges():
    for name in RECIPES:
        get_recipe(name).check()
    for wrong in ({"blr": -1.0}, {"lam_start": 2.0}, {"mask_ratio": 0.0}, {"num_views": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            replace(get_recipe("debug"), **wrong).check()


# ---------------------------------------------------------------- data of which no figure can speak
def test_one_class_and_measurements_are_refused(tmp_path):
    one = sets(tmp_path / "one", (6,), (3,))
    tuning = replace(FINETUNE_RECIPES["finetune_tiny_objects"](), data=str(one))
    for ask in (lambda: evaluate(asking(one)), lambda: evaluate(asking(one, method="linear")),
                lambda: open_sets(tuning), lambda: describe(planned(tuning))):
        with pytest.raises(DataError, match=f"one class only .{OBJECTS[0]}."):
            ask()
    rows = [f"train/{OBJECTS[0]}/{i}.png,{20 + i * 0.7:.1f},{i % 2}.5,{i}" for i in range(6)]
    (one / "manifest.csv").write_text("path,age,half,number\n" + "\n".join(rows))
    with pytest.raises(DataError, match="numbers for labels .20.0, 20.7, 21.4"):
        evaluate(asking(one, label="age"))
    (part, *_), _ = open_parts(asking(one, label="half"))  # two classes of three files: accepted
    assert part.classes == ("0.5", "1.5")
    with pytest.raises(DataError, match="one file a class"):
        evaluate(asking(one, label="number"))


def test_numbers_as_names_are_said(skewed):
    (learn,), test = open_parts(asking(skewed))
    many = replace(learn, classes=tuple(map(str, range(20))), targets=np.arange(20))
    check_classes([many])
    said = cautions([many], replace(test, classes=many.classes))
    assert any("the labels are numbers (0, 1, 2, ...)" in s for s in said)
    digits = replace(learn, classes=("0", "1"))
    assert not any("numbers" in s for s in cautions([digits], replace(test, classes=("0", "1"))))


def test_classes_that_do_not_fit_are_named(skewed, tmp_path):
    other = fill(tmp_path / "other", "val", (1, 1, 1, 1))
    with pytest.raises(DataError, match=f"2: {OBJECTS[3]}|2: {OBJECTS[2]}") as refused:
        evaluate(asking(skewed, val_data=str(other)))
    assert "to test on, are not among the 2 of" in str(refused.value)
    tuning = replace(FINETUNE_RECIPES["finetune_tiny_objects"](), data=str(skewed))
    with pytest.raises(DataError, match="classes of .* --val-data"):
        open_sets(replace(tuning, val_data=str(other)))
    with pytest.raises(DataError, match="/no/such/folder is neither a path that exists"):
        evaluate(asking("/no/such/folder"))
    with pytest.raises(DataError, match="/no/such/val is neither a path that exists"):
        evaluate(asking(skewed, val_data="/no/such/val"))


# ---------------------------------------------------------------- said beside the figure
def test_test_files_that_were_learned_from(skewed, tmp_path):
    (learn,), test = open_parts(asking(skewed))
    assert shared_files([learn], test) == []
    assert shared_files([learn], learn) == list(range(20))
    first, second, third = (Path(s.path) for s in learn.samples[:3])
    twins = tmp_path / "twins" / OBJECTS[0]
    twins.mkdir(parents=True)
    (twins / "a copy.png").write_bytes(first.read_bytes())
    (twins / "hard.png").hardlink_to(second)
    (twins / "soft.png").symlink_to(third)
    changed = bytearray(first.read_bytes())
    changed[len(changed) // 2] ^= 1
    (twins / "other bytes.png").write_bytes(changed)
    (twins / "empty.png").write_bytes(b"")
    other = sets(tmp_path / "o", (1, 1), (2, 1))
    _, twin = open_parts(asking(other, val_data=str(twins.parent), val_split="train"))
    names = [Path(twin.samples[i].path).name for i in shared_files([learn], twin)]
    assert names == ["a copy.png", "hard.png", "soft.png"]
    images = replace(learn, images=np.arange(20 * 3, dtype=np.uint8).reshape(20, 1, 1, 3))
    again = replace(test, images=np.array(images.images[5:15]))
    assert shared_files([images], again) == list(range(10))
    result = evaluate(asking(skewed, val_data=str(skewed), val_split="train", k=1))
    assert result["value"] == 1 and "all 20 test files were learned from too" in str(result)


def test_uneven_classes(skewed, tmp_path, capsys):
    out = tmp_path / "result.json"
    result = evaluate(asking(skewed, out=str(out), k=500))
    text = capsys.readouterr().out
    stored = json.loads(out.read_text())["result"]
    assert stored == json.loads(json.dumps(result))
    assert stored["largest"] == [OBJECTS[0], 0.8] and stored["uneven"]
    hits = sum(stored["confusion"][c].get(c, 0) for c in OBJECTS[:2])
    assert hits / 10 == pytest.approx(stored["top1"]) and stored["top5"] is None
    means = [stored["confusion"][c].get(c, 0) / n for c, n in zip(OBJECTS, (8, 2))]
    assert stored["balanced"] == pytest.approx(np.mean(means), abs=1e-6)
    for words in (f"always {OBJECTS[0]}", "balanced (mean per class)", "true \\ answer",
                  "caution: k is 500, and only 20 samples", "caution: only 10 test files",
                  f"({OBJECTS[1]}) has fewer than 5 files to learn from"):
        assert words in text, words
    assert "top-5" not in text


def test_even_classes_are_left_in_peace():
    y = np.arange(60) % 6
    table = score_table(metrics(np.eye(6)[y], y), list("abcdef"))
    text = describe_scores(table)
    assert not table["uneven"] and table["top5"] == 1 and "83.33" in text  # chance of top-5 of six
    assert "always" not in text and "true" not in text
    y = np.repeat(np.arange(40), np.arange(1, 41))
    table = score_table(metrics(np.eye(40)[np.roll(y, 1)], y), [f"c{i}" for i in range(40)])
    assert "most often confused: " in describe_scores(table) and len(str(table)) < 6000


def test_one_class_to_test_on_and_classes_without_files(skewed, tmp_path):
    (learn,), test = open_parts(asking(skewed))
    rows = np.flatnonzero(test.targets == 1)
    only = replace(test, samples=tuple(test.samples[i] for i in rows), targets=test.targets[rows])
    said = " | ".join(cautions([learn], only))
    assert f"all test files are of one class ({OBJECTS[1]})" in said
    assert f"1 of 2 classes ({OBJECTS[0]}) has no file to test on" in said
    said = " | ".join(cautions([only], test))
    assert f"1 of 2 classes ({OBJECTS[0]}) has no file to learn from" in said


def test_defaults_run_in_a_clone(monkeypatch):
    monkeypatch.chdir(ROOT)
    (learn,), test = open_parts(EvaluateConfig())
    assert (len(learn), len(test)) == (100, 20) and "held out" in " ".join(test.notes)
    train, held = open_sets(FINETUNE_RECIPES["finetune_tiny_objects"]())
    assert (len(train), len(held)) == (100, 20)
    assert not {s.path for s in train.samples} & {s.path for s in held.samples}
    _, outside = open_parts(EvaluateConfig(val_data="data_samples"))
    assert len(outside) == 120  # whoever names other files gets all of them


@pytest.mark.parametrize("text", [
    "[]", "{}", "{", "null", '{"settings": 3, "results": {}}', "[" * 9999,
    '{"settings": {}, "results": {"dtd": {"value": "high"}}}'])
def test_results_that_hold_anything(tmp_path, text):
    path = tmp_path / "transfer.json"
    path.write_text(text)
    with pytest.raises(DataError, match="transfer.json holds no results of vicmae evaluate"):
        transfer(TransferConfig(data=str(tmp_path), out=str(path), workers=0, cache=""))


# ---------------------------------------------------------------- fine-tuning
def tuning(data: Path, out: Path, **changes) -> FinetuneConfig:
    base = replace(FINETUNE_RECIPES["finetune_tiny_objects"](), data=str(data), out=str(out),
                   batch_size=8, tensorboard=False, precision="fp32", steps=4)
    return replace(base, **changes)


def test_class_weights_and_what_is_stored(skewed, tmp_path, capsys):
    run = tmp_path / "run"
    config = tuning(skewed, run, class_weights="balanced", model="vicmae_vit_base_patch16",
                    img_size=64)
    told = describe(planned(config))
    assert finetune(config) == 0
    said = capsys.readouterr().out
    for text in (told, said):
        assert "--model vicmae_vit_base_patch16 is not used" in text
        assert "tiny was trained at 32 pixels a side, and this is done at 64" in text
        assert "caution: only 10 test files" in text
    result = json.loads((run / "test.json").read_text())
    assert result["uneven"] and set(result["confusion"]) == set(OBJECTS[:2])
    assert result["cautions"] and result["top5"] is None and "always" in said
    assert all("top5" not in row for row in RunFolder(run).evals())
    plain = tmp_path / "plain"
    assert finetune(replace(config, out=str(plain), class_weights="none")) == 0
    first = [RunFolder(r).metrics()[0]["grad_norm"] for r in (run, plain)]
    assert first[0] != pytest.approx(first[1], rel=1e-3)


def test_the_best_weights_are_kept_and_who_chose_them(skewed, tmp_path, capsys):
    data = tmp_path / "data"
    fill(sets(data, (6, 6), (5, 5)), "test", (5, 5), first=9000)
    run = tmp_path / "run"
    config = tuning(data, run, keep_best=True, eval_every=2, steps=5, val_split="test", blr=0.5)
    assert finetune(config) == 0
    scores = {row["step"]: row["score"] for row in RunFolder(run).evals()}
    result = json.loads((run / "test.json").read_text())
    assert result["chosen_by"] == "val" and result["n"] == 10 and result["step"] in (2, 4, 5)
    assert not any("chosen by the test files" in s for s in result["cautions"])
    about = read_tensors(run / "best.safetensors")[1]
    assert int(about["step"]) == result["step"]
    kept, mark = result["step"], json.loads(about["config"])["mark"]
    assert kept in (2, 4, 5) and all(mark >= scores[step] for step in (2, 4))
    assert kept == 5 or mark == scores[kept]
    asked = list(predict(run, sorted((data / "test").rglob("*.png"))))
    right = np.mean([p.classes[0][0] == Path(p.path).parent.name for p in asked])
    assert right == pytest.approx(result["top1"], abs=1e-6)
    alone = tmp_path / "alone"
    assert finetune(replace(config, data=str(skewed), val_split="val", out=str(alone))) == 0
    result = json.loads((alone / "test.json").read_text())
    assert any("chosen by the test files" in s for s in result["cautions"])


# ---------------------------------------------------------------- predictions as a table
def test_predictions_as_a_table(skewed, tmp_path, capsys):
    run = tmp_path / "run"
    assert finetune(tuning(skewed, run, steps=1)) == 0
    folder = tmp_path / "own, pictures"
    folder.mkdir()
    source = next((skewed / "val").rglob("*.png")).read_bytes()
    name = os.fsdecode(b"caf\xe9, 1.png")
    (folder / name).write_bytes(source)
    (folder / "two\nlines.png").write_bytes(source)
    (folder / "bad.png").write_bytes(source[:60])
    files = [folder, tmp_path / "gone.png", skewed / "val" / OBJECTS[0] / "0.png"]
    table, plain = tmp_path / "out" / "table.csv", tmp_path / "table.json"
    assert print_predictions(run, files, out=str(table), top=2) == 2
    assert print_predictions(run, files, out=str(plain), top=1) == 2
    assert "5 files in" in capsys.readouterr().out
    with open(table, encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "label", "probability", "label_2", "probability_2", "error"]
    by_name = {Path(row["path"]).name: row for row in rows}
    assert set(by_name) == {name, "two\nlines.png", "bad.png", "gone.png", "0.png"}
    assert by_name["bad.png"]["error"] and not by_name["bad.png"]["label"]
    assert "does not exist" in by_name["gone.png"]["error"]
    assert float(by_name[name]["probability"]) >= float(by_name[name]["probability_2"]) > 0
    stored = json.loads(plain.read_text("utf-8"))["files"]
    assert [Path(row["path"]).name for row in stored] == [Path(row["path"]).name for row in rows]
    assert {len(row["classes"]) for row in stored} == {0, 1}
    with pytest.raises(ValueError, match=".csv or .json"):
        print_predictions(run, files, out="table.xlsx")
    with pytest.raises(DataError, match="does not exist"):
        print_predictions(run, [tmp_path / "gone.png"])


@pytest.mark.parametrize("name", ["tiny", "tiny64"])
def test_a_pretrained_model_has_no_classes(name):
    with pytest.raises(CheckpointError, match=f"{name} .*knows no classes.*--init {name}"):
        load_classifier(name)
    with pytest.raises(CheckpointError, match=f"{name}x: no such file; .* vicmae finetune"):
        load_classifier(name + "x")
