"""Features that are kept, measures that are right, and a suite that is stopped and goes on."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from support.waiting import PATIENCE

import vicmae.backbone.feature_store as features
from vicmae.backbone.checkpoints import load_model
from vicmae.train.weights import save_model
from vicmae.finetuning.classifier import from_pretrained
from vicmae.backbone.features import extract_features, knn_scores
from vicmae.backbone.feature_store import features_of
from vicmae.errors import DataError, DatasetMissing
from vicmae.media.frames import Frames, first_frame
from vicmae.evaluation.labelled import of_kind, open_labelled, take
from vicmae.model.vicmae import vicmae_vit_tiny_patch8
from vicmae.backbone.probes import (
    LADDER,
    Knn,
    Linear,
    average_precision,
    doubts,
    evaluate_probe,
    linear_scores,
    metrics,
    wilson,
)
from vicmae.data.sampling import hold_out, eval_views
from vicmae.evaluation.probe import EvaluateConfig, TransferConfig, evaluate, open_parts
from vicmae.evaluation.transfer import transfer
from vicmae.data.views import normalize
from vicmae.data.world import OBJECTS, make_picture
from vicmae.data.worldfiles import write_world
from support import torchrun

pytestmark = pytest.mark.filterwarnings("error::UserWarning")  # a test must expect what is said


def save(path: Path, number: int, objects: tuple[int, ...] = (0,), split: str = "train") -> None:
    "A picture of the generated world, or several side by side."
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [make_picture(number, split=split, size=32, object=o).frames[0] for o in objects]
    Image.fromarray(np.concatenate(made, axis=1)).save(path)


def folder_set(root: Path, each: int = 3, classes: int = 3, splits=("train", "val")) -> Path:
    "Folders by class."
    for s, split in enumerate(splits):
        for o in range(classes):
            for i in range(each):
                path, number = root / split / OBJECTS[o] / f"{i}.png", 100 * s + 10 * i + o
                save(path, number, (o,), "train" if split == "train" else "val")
    return root


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture
def pictures(tmp_path):
    return open_labelled(str(folder_set(tmp_path / "set")), "train")


@pytest.fixture
def counted(monkeypatch):
    "Samples that were opened since, by position."
    opened, read = [], Frames.read
    monkeypatch.setattr(Frames, "read", lambda s, i, *pick: opened.append(i) or read(s, i, *pick))
    return opened


def quick(model, data, **options):
    return features_of(model, data, **({"workers": 0, "time_limit": None, "cache": None} | options))


# ---------------------------------------------------------------- features and their cache
def test_interrupted_extraction_goes_on(tiny, pictures, tmp_path, monkeypatch, counted):
    monkeypatch.setattr(features, "CHUNK", 4)
    whole, original, calls = quick(tiny, pictures, batch_size=2), extract_features, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(features, "extract_features", stopped)
    with pytest.raises(KeyboardInterrupt):
        quick(tiny, pictures, batch_size=2, cache=tmp_path / "c")
    counted.clear()
    assert torch.equal(quick(tiny, pictures, batch_size=2, cache=tmp_path / "c"), whole)
    assert sorted(set(counted)) == [4, 5, 6, 7, 8]  # the first chunk was kept, nothing else
    counted.clear()
    assert torch.equal(quick(tiny, pictures, cache=tmp_path / "c"), whole) and not counted


@pytest.mark.parametrize("harm", ["cut", "flip", "text", "foreign"])
def test_damaged_chunk_is_named_and_made_again(tiny, pictures, tmp_path, harm):
    first = quick(tiny, pictures, cache=tmp_path)
    chunk = next(tmp_path.rglob("*.safetensors"))
    whole = chunk.read_bytes()
    if harm == "foreign":
        quick(tiny, pictures, cache=tmp_path / "other", pool="cls")
        chunk.write_bytes(next((tmp_path / "other").rglob("*.safetensors")).read_bytes())
    else:
        flipped = whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:]
        chunk.write_bytes({"cut": whole[:-50], "flip": flipped, "text": b"hello"}[harm])
    with pytest.warns(UserWarning, match=f"{chunk.name} is damaged: these 9 features are made"):
        assert torch.equal(quick(tiny, pictures, cache=tmp_path), first)
    assert torch.equal(quick(tiny, pictures, cache=tmp_path), first)  # and is whole again


def test_key_follows_what_features_depend_on(tiny, pictures, tmp_path, counted):
    keys = lambda: {path.name for path in tmp_path.iterdir() if path.name != "set"}
    first = quick(tiny, pictures, cache=tmp_path)
    assert len(keys()) == 1
    other_head = vicmae_vit_tiny_patch8(decoder_depth=2)
    backbone = {k: v for k, v in tiny.state_dict().items() if k in other_head.state_dict()}
    fits = {k: v for k, v in backbone.items() if other_head.state_dict()[k].shape == v.shape}
    other_head.load_state_dict(fits, strict=False)
    counted.clear()
    assert torch.equal(quick(other_head, pictures, cache=tmp_path), first) and not counted
    touched = load_model("tiny")
    with torch.no_grad():
        touched.blocks[0].mlp.fc1.bias[0] += 1e-3
    assert not torch.equal(quick(touched, pictures, cache=tmp_path), first)
    for options in (dict(pool="cls"), dict(crop_pct=0.8), dict(precision="bf16")):
        quick(tiny, pictures, cache=tmp_path, **options)
    save(Path(pictures.samples[0].path), 999)
    assert not torch.equal(quick(tiny, pictures, cache=tmp_path), first)
    assert len(keys()) == 6


def test_unreadable_files_are_named_and_tried_again(tiny, pictures, tmp_path, counted):
    path = Path(pictures.samples[4].path)
    good, stamp = path.read_bytes(), path.stat()
    bad = bytes(len(good))
    path.write_bytes(bad)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    errors = []
    x = quick(tiny, pictures, cache=tmp_path / "c", errors=errors)
    assert x.isnan().any(1).nonzero().flatten().tolist() == [4]
    assert [e["path"] for e in errors] == [str(path)] and "zeros" in errors[0]["reason"]
    path.write_bytes(good)  # the same size and time: the drive is back
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    counted.clear()
    assert quick(tiny, pictures, cache=tmp_path / "c").isfinite().all() and counted == [4]
    for sample in pictures.samples:
        Path(sample.path).write_bytes(b"")
    with pytest.raises(DataError, match="not one of the 9 files of .* can be read"):
        quick(tiny, pictures)


@pytest.mark.floats
def test_worker_processes_and_arrays_give_the_same(tiny, pictures):
    x = quick(tiny, pictures)
    again = features_of(tiny, pictures, cache=None, workers=2, batch_size=2)  # helpers, time limit
    torch.testing.assert_close(again, x, rtol=1e-4, atol=1e-5)
    stills = [pictures.frames().read(i, first_frame)[0] for i in range(len(pictures))]
    images = torch.stack(stills).permute(0, 2, 3, 1).contiguous().numpy()
    arrays = replace(pictures, images=images)
    torch.testing.assert_close(quick(tiny, arrays), x, rtol=1e-4, atol=1e-5)
    direct = extract_features(tiny, torch.from_numpy(images).permute(0, 3, 1, 2))
    torch.testing.assert_close(x, direct, rtol=1e-4, atol=1e-5)


@pytest.mark.floats
def test_features_of_a_classifier_are_what_its_head_is_given(tiny, pictures, tmp_path):
    """A new head on a backbone: the backbone's features; a model of clips sees clips."""
    classifier = from_pretrained(tiny, list("abc")).eval()
    assert torch.equal(quick(classifier, pictures), quick(tiny, pictures))
    write_world(tmp_path / "clips", 3, 0, "train", 12, 32, workers=0, progress=False)
    clips = of_kind(open_labelled(str(tmp_path / "clips")), "clip")
    assert torch.equal(quick(classifier, clips), quick(tiny, clips))
    of_clips = from_pretrained(tiny, list("abc"), num_frames=4).eval()
    x = quick(of_clips, clips, num_frames=8, sampling_rate=2)
    for i in range(len(clips)):  # two clips of four frames, by hand
        index = eval_views(12, 4, 2, 2)[0]
        views = clips.frames(time_limit=None).read(i, lambda clip, index=index: index)
        with torch.no_grad():
            by_hand = of_clips.forward_features(normalize(views)).mean(0)
        torch.testing.assert_close(x[i], by_hand, rtol=1e-4, atol=1e-5)
    keys = lambda: {path.name for path in (tmp_path / "c").iterdir()}
    for model, options in ((tiny, {}), (classifier, {}), (of_clips, {"sampling_rate": 2}),
                           (of_clips, {"sampling_rate": 1})):
        quick(model, take(clips, [0]), cache=tmp_path / "c", **options)
    assert len(keys()) == 4


def test_a_fine_tuned_checkpoint_is_evaluated_and_said_to_be_one(tiny, tmp_path, capsys):
    folder_set(tmp_path / "set")
    save_model(tmp_path / "run" / "classifier.safetensors", from_pretrained(tiny, list("abc")))
    for method in ("knn", "linear"):
        asked = evaluate_config(tmp_path, method=method)
        plain = evaluate(asked)
        tuned = evaluate(replace(asked, checkpoint=str(tmp_path / "run")))
        assert tuned["value"] == plain["value"]
        assert "was fine-tuned with labels" in str(tuned["cautions"])
        assert "was fine-tuned with labels" not in str(plain["cautions"])


def test_weights_that_are_not_finite_are_said(pictures):
    broken = load_model("tiny")
    with torch.no_grad():
        broken.norm.weight[0] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        quick(broken, pictures)


def test_cache_that_cannot_be_written_does_not_end_the_work(tiny, pictures, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match="not kept from here on"):
        x = quick(tiny, pictures, cache=tmp_path / "file")
    assert x.isfinite().all()


RANKS = """
import sys, torch
import vicmae.backbone.feature_store as features
from vicmae.backbone.checkpoints import load_model
from vicmae.train.weights import save_model
from vicmae.train.distributed import cleanup, rank, setup
from vicmae.evaluation.labelled import of_kind, open_labelled, take
features.CHUNK = 4
setup(torch.device("cpu"))
data, model = open_labelled(sys.argv[1], "train"), load_model("tiny")
options = dict(batch_size=2, workers=0, time_limit=None)
for i, cache in enumerate(("shared", f"apart{rank()}", f"apart{1 - rank()}", None)):
    errors = []
    cache = cache and f"{sys.argv[2]}/{cache}"
    x = features.features_of(model, data, cache=cache, errors=errors, **options)
    torch.save((x, [e["path"] for e in errors]), f"{sys.argv[2]}/{i}.{rank()}.pt")
cleanup()
"""


@pytest.mark.floats
def test_two_processes_share_the_work(tiny, pictures, tmp_path):
    "On one disk, on disks of their own, with caches that hold different halves, with none."
    Path(pictures.samples[7].path).write_bytes(b"nothing")
    script, out = tmp_path / "ranks.py", tmp_path / "c"
    script.write_text(RANKS)
    out.mkdir()
    run = [*torchrun(2),
           str(script), str(tmp_path / "set"), str(out)]
    env = dict(os.environ)
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = quick(tiny, pictures)
    for i in range(4):
        for r in range(2):
            x, errors = torch.load(out / f"{i}.{r}.pt")
            torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
            assert errors == [pictures.samples[7].path]


# ---------------------------------------------------------------- neighbours
@pytest.mark.floats
@pytest.mark.parametrize("k", [1, 7, 500])
def test_knn_equals_brute_force(k):
    g = torch.Generator().manual_seed(k)
    x, q = torch.randn(400, 16, generator=g), torch.randn(70, 16, generator=g)
    y = torch.randint(0, 6, (400,), generator=g)
    unit = lambda v: v.double() / v.double().norm(dim=1, keepdim=True)
    similarity, expected = unit(q) @ unit(x).T, torch.zeros(70, 7, dtype=torch.float64)
    for m in range(70):
        for n in sorted(range(400), key=lambda n: -similarity[m, n])[:k]:
            expected[m, y[n]] += np.exp(similarity[m, n].item() / 0.07)
    expected /= expected.sum(1, keepdim=True)
    found = knn_scores(x, y, q, k, num_classes=7).double()
    assert (found - expected).abs().max() < 1e-5
    assert torch.equal(found.argmax(1), expected.argmax(1))


def test_knn_of_several_labels_ignores_what_is_unknown():
    x = torch.eye(3)
    table = torch.tensor([[1.0, torch.nan], [0.0, 1.0], [0.0, 0.0]])
    scores = knn_scores(x, table, torch.tensor([[1.0, 1.0, 0.0]]), k=2)
    torch.testing.assert_close(scores, torch.tensor([[0.5, 1.0]]))


# ---------------------------------------------------------------- measures
@pytest.mark.floats
def test_wilson_is_scipys():
    from scipy.stats import binomtest

    for hits, n in ((0, 5), (3, 5), (5, 5), (499, 500), (1234, 5000)):
        expected = binomtest(hits, n).proportion_ci(method="wilson")
        assert np.allclose(wilson(hits, n), (expected.low, expected.high), atol=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_top1_top5_and_per_class_against_sorting():
    rng = np.random.default_rng(0)
    scores, y = rng.normal(size=(200, 9)), rng.integers(0, 8, 200)  # class 8 never occurs
    order = np.argsort(-scores, axis=1)
    found = metrics(scores, y, "per_class")
    assert found.top1 == np.mean(order[:, 0] == y)
    assert found.top5 == np.mean((order[:, :5] == y[:, None]).any(1))
    per_class = [np.mean(order[y == c, 0] == c) for c in range(8)]
    assert np.allclose(found.per_class[:8], per_class) and np.isnan(found.per_class[8])
    assert np.isclose(found.value, np.mean(per_class)) and found.low < found.value < found.high
    assert metrics(np.zeros((4, 3)), np.array([0, 1, 2, 0])).top1 == 0.5  # ties: the first class
    assert metrics(scores, y, "per_class")[4:8] == found[4:8]  # the bootstrap is seeded


def test_map_leaves_out_difficult_objects_and_empty_classes():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(1)
    scores, y = rng.normal(size=(300, 3)), (rng.random((300, 3)) < 0.2).astype(float)
    y[rng.random((300, 3)) < 0.1] = np.nan
    y[:, 2] = 0  # nothing to find
    found = metrics(scores, y, "map")
    for c in range(2):
        known = ~np.isnan(y[:, c])
        s, positive = scores[known, c], y[known, c] > 0
        assert found.per_class[c] == average_precision(s, positive)
        area = average_precision(s, positive, points=None)
        assert np.isclose(area, average_precision_score(positive, s))
    assert np.isnan(found.per_class[2]) and np.isclose(found.value, found.per_class[:2].mean())
    assert found.low < found.value < found.high and np.isnan(found.top1)


def test_eleven_points_of_a_known_ranking():
    # positives at ranks 1, 3 and 6 of 6: precision 1, 2/3, 1/2; recall 1/3, 2/3, 1
    positive = np.array([1, 0, 1, 0, 0, 1]) > 0
    expected = (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11
    assert np.isclose(average_precision(-np.arange(6.0), positive), expected)


@pytest.mark.parametrize("scores, targets, metric, words", [
    (np.full((2, 2), np.nan), [0, 1], "top1", "nan"),
    (np.zeros((2, 2)), [0], "top1", "2 rows of scores for 1 targets"),
    (np.zeros((0, 2)), [], "top1", "0 rows"),
    (np.zeros((2, 2)), [0, 1], "f1", "unknown metric 'f1'"),
])
def test_measures_refuse_what_cannot_be_measured(scores, targets, metric, words):
    with pytest.raises(ValueError, match=words):
        metrics(scores, np.array(targets, dtype=int), metric)


# ---------------------------------------------------------------- linear probes
def blobs(n=600, width=12, classes=4, seed=0, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    y = torch.arange(n) % classes
    return centres[y] * spread + torch.randn(n, width, generator=g), y


@pytest.mark.floats
def test_warm_start_and_start_from_zero_agree():
    (x, y), (xt, _) = blobs(), blobs(seed=1)
    path = list(linear_scores(x, y, xt, 4, LADDER))
    for i in (0, 6, len(LADDER) - 1):
        alone = next(linear_scores(x, y, xt, 4, [LADDER[i]]))
        assert np.abs(alone - path[i]).max() < 0.02 * np.abs(alone).max()


def test_class_that_is_never_learned_and_data_with_one_class():
    (x, y), (xt, yt) = blobs(), blobs(seed=1)
    some = y != 3
    found = evaluate_probe(Linear(), x[some], y[some], xt, yt, num_classes=4)
    assert found.metrics.per_class[3] == 0 and found.scores.shape == (600, 4)
    assert evaluate_probe(Knn(), x[some], y[some], xt, yt).metrics.per_class[3] == 0
    with pytest.raises(DataError, match="two classes"):
        evaluate_probe(Linear(), x[y == 0], y[y == 0], xt, yt)


def test_held_out_samples():
    y = np.repeat((0, 1, 2), (10, 5, 1))
    held = hold_out(y)
    assert np.bincount(y[held], minlength=3).tolist() == [2, 1, 0]
    assert hold_out(np.arange(10)).sum() == 2  # one sample a class: any two
    assert hold_out(np.zeros((10, 3))).sum() == 2


# ---------------------------------------------------------------- whole data sets
def evaluate_config(tmp_path: Path, **changes) -> EvaluateConfig:
    base = EvaluateConfig(data=str(tmp_path / "set"), workers=0, time_limit=None, cache="")
    return replace(base, **changes)


def test_options_need_no_torch():
    code = "import sys, vicmae.evaluation.transfer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE).returncode == 0


def test_evaluate_prints_writes_and_leaves_out(tmp_path, capsys):
    folder_set(tmp_path / "set")
    bad = tmp_path / "set" / "val" / OBJECTS[1] / "0.png"
    bad.write_bytes(b"no picture")
    out = tmp_path / "results" / "one.json"
    result = evaluate(evaluate_config(tmp_path, out=str(out)))
    text = capsys.readouterr().out
    assert result["test"] == 8 and result["train"] == 9 and str(bad) in text
    assert json.loads(out.read_text())["result"] == result
    assert "exact linear probe" in text and "top-1" in text
    knn = evaluate(evaluate_config(tmp_path, method="knn", k=3))
    again = evaluate(evaluate_config(tmp_path, method="knn", k=3, random=True))
    assert knn["penalty"] is None and knn["value"] != again["value"]


def test_roles_of_splits(tmp_path):
    folder_set(tmp_path / "set", splits=("train", "val", "test"), each=2)
    parts, test = open_parts(evaluate_config(tmp_path))
    assert [p.split for p in parts] == ["train", "val"] and test.split == "test"
    parts, test = open_parts(evaluate_config(tmp_path, val_split="val"))
    assert [p.split for p in parts] == ["train"] and test.split == "val"
    evaluate(evaluate_config(tmp_path))  # L2 chosen on val
    folder_set(tmp_path / "one", splits=("train",))
    (learn,), held = open_parts(evaluate_config(tmp_path, data=str(tmp_path / "one")))
    assert (len(learn), len(held)) == (6, 3) and "held out as val" in held.notes[-1]
    with pytest.raises(DataError, match="--val-data"):
        same = dict(split="train", val_split="train")
        open_parts(evaluate_config(tmp_path, data=str(tmp_path / "one"), **same))
    with pytest.raises(DataError, match="no clip"):
        open_parts(evaluate_config(tmp_path, kind="clip"))


def test_clips_by_another_column(tmp_path):
    write_world(tmp_path / "train", 10, 2, "train", 8, 32, workers=0, progress=False)
    write_world(tmp_path / "val", 10, 2, "val", 8, 32, workers=0, progress=False)
    config = evaluate_config(tmp_path, data=str(tmp_path / "train"), val_data=str(tmp_path / "val"))
    result = evaluate(replace(config, num_frames=3))
    assert result["train"] == 12 and result["test"] == 12
    motion = evaluate(replace(config, label="motion", kind="clip"))
    assert set(motion["per_class"]) != set(result["per_class"]) and motion["train"] == 10


# ---------------------------------------------------------------- the suite
def lay_out(home: Path) -> None:
    "Pets and DTD in small, as their makers pack them."
    for part, world in (("trainval", "train"), ("test", "val")):
        lines = []
        for n in range(8):
            name = f"{'Abyssinian' if n % 2 else 'beagle'}_{len(world) * 10 + n}"
            lines.append(f"{name} {n % 2 + 1} 1 1")
            save(home / f"oxford-iiit-pet/images/{name}.jpg", n, (n % 2,), world)
        text = "\n".join(lines) + "\n"
        path = home / f"oxford-iiit-pet/annotations/{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for p, part in enumerate(("train", "val", "test")):
        names = [f"{c}/{c}_{p}{n}.jpg" for c in ("banded", "braided") for n in range(4)]
        for n, name in enumerate(names):
            save(home / "dtd/images" / name, 50 * p + n, (n // 4,), "val" if p == 2 else "train")
        (home / "dtd/labels").mkdir(exist_ok=True)
        (home / f"dtd/labels/{part}1.txt").write_text("\n".join(names) + "\n")


def suite(tmp_path: Path, **changes) -> TransferConfig:
    base = TransferConfig(data=str(tmp_path / "data"), out=str(tmp_path / "out.json"),
                          cache="", workers=0, time_limit=None)
    return replace(base, **changes)


def test_suite_names_what_is_missing_and_goes_on(tmp_path, capsys, monkeypatch):
    lay_out(tmp_path / "data")
    import vicmae.evaluation.transfer as module

    probe, calls = module.probe, []

    def stopped(config, model, parts, test):
        calls.append(test.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return probe(config, model, parts, test)

    monkeypatch.setattr(module, "probe", stopped)
    with pytest.raises(KeyboardInterrupt):
        transfer(suite(tmp_path))
    kept = json.loads((tmp_path / "out.json").read_text())["results"]
    assert list(kept) == ["dtd"] and calls == ["dtd", "pets"]
    capsys.readouterr()
    results = transfer(suite(tmp_path))
    text = capsys.readouterr().out
    assert calls == ["dtd", "pets", "pets"] and results["dtd"] == kept["dtd"]
    assert results["pets"]["metric"] == "per_class" and results["dtd"]["metric"] == "top1"
    assert "DTD: done before" in text and "Food: not there" in text and "mean of 2" in text
    assert "skipped: Food, CIFAR-10" in text


def test_other_model_or_setting_begins_anew_and_keeps_the_old(tmp_path, capsys):
    lay_out(tmp_path / "data")
    one = suite(tmp_path, datasets="pets")
    old = transfer(one)
    other = vicmae_vit_tiny_patch8()
    save_model(tmp_path / "other.safetensors", other)
    for changes in (dict(checkpoint=str(tmp_path / "other.safetensors")), dict(pool="cls")):
        capsys.readouterr()
        transfer(replace(one, **changes))
        assert "begin anew" in capsys.readouterr().out
    transfer(one)
    assert json.loads((tmp_path / "out.json").read_text())["results"]["pets"]["value"] == \
        old["pets"]["value"]
    assert len(list(tmp_path.glob("out.before*.json"))) == 3  # nothing was lost
    capsys.readouterr()
    transfer(replace(one, batch_size=5))  # changes no result
    assert "done before" in capsys.readouterr().out


def test_broken_set_is_named_and_the_rest_is_done(tmp_path, capsys):
    lay_out(tmp_path / "data")
    (tmp_path / "data/dtd/labels/test1.txt").write_text("")
    results = transfer(suite(tmp_path, datasets="dtd,pets"))
    text = capsys.readouterr().out
    assert list(results) == ["pets"] and "DTD: left out: " in text and "test1.txt" in text


def test_suite_refuses_what_it_cannot_use(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="none of 12 data sets"):
        transfer(suite(tmp_path))
    with pytest.raises(DataError, match="'mnist' is not in the suite"):
        transfer(suite(tmp_path, datasets="mnist"))
    (tmp_path / "out.json").write_text("{}")
    with pytest.raises(DataError, match="holds no results"):
        transfer(suite(tmp_path))
    with pytest.raises(DatasetMissing, match="pets is not in"):
        open_parts(EvaluateConfig(data=f"pets:{tmp_path}"))


@pytest.mark.parametrize("several", [False, True])
def test_order_of_the_rows_decides_nothing(several):
    "Sorted by class, as files are listed, shuffled or turned round: the same strength and scores."
    (x, y), (xt, yt) = blobs(spread=0.5), blobs(seed=1, spread=0.5)
    if several:
        y, yt = (F.one_hot(t, 4).float() for t in (y, yt))
    metric, by_class = ("map", y.argmax(1).argsort()) if several else ("top1", y.argsort())
    mixed = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    orders = (by_class, mixed, mixed.flip(0))
    asked = Linear(penalties=LADDER[::3])
    found = [evaluate_probe(asked, x[o], y[o], xt, yt, metric) for o in orders]
    for other in found[1:]:
        assert other.penalty == found[0].penalty and other.tried == pytest.approx(found[0].tried)
        np.testing.assert_allclose(other.scores, found[0].scores, rtol=1e-6, atol=1e-9)
    assert max(found[0].tried.values()) > 0.4  # the held-out part holds what was learned


@pytest.mark.parametrize(
    "sizes", [(80, 10, 5, 5), (120, 1, 1, 1), (2, 1, 0, 0), (1, 1, 1, 1), (30, 0, 0, 9)]
)
def test_linear_probe_of_uneven_classes_has_a_result(sizes):
    x, y = blobs()
    rows = torch.cat([(y == c).nonzero()[:n, 0] for c, n in enumerate(sizes)])
    xt, yt = blobs(seed=1)
    found = evaluate_probe(Linear(penalties=LADDER[::3]), x[rows], y[rows], xt, yt, num_classes=4)
    assert found.penalty in LADDER and 0 <= found.metrics.value <= 1
    never = [c for c, n in enumerate(sizes) if n == 0]
    assert all(found.metrics.per_class[c] == 0 for c in never)  # cannot be answered rightly


def test_balanced_accuracy_and_confusion_are_scikit_learns():
    from sklearn.metrics import balanced_accuracy_score, confusion_matrix

    rng = np.random.default_rng(0)
    y, scores = rng.choice(5, 300, p=(0.6, 0.2, 0.1, 0.1, 0)), rng.normal(size=(300, 5))
    answers = scores.argmax(1)
    for metric in ("top1", "per_class"):
        m = metrics(scores, y, metric)
        assert (m.confusion == confusion_matrix(y, answers, labels=range(5))).all()
        with pytest.warns(UserWarning, match="y_pred contains classes"):
            assert m.balanced == pytest.approx(balanced_accuracy_score(y, answers))
    several = metrics(scores, np.eye(5)[y], "map")
    assert several.confusion is None and np.isnan(several.balanced)


def test_doubts_are_said_where_there_are_any():
    names, even = ["a", "b", "c"], np.array([20, 20, 20])
    say = lambda learned, tested, **how: doubts(np.array(learned), np.array(tested), names, **how)
    assert say(even, even) == []
    said = say(even, [20, 0, 0])
    assert "always the same" in said[0] and "2 of 3 classes (b, c) have no file to test" in said[1]
    said = say([20, 20, 0], [90, 3, 7])
    assert len(said) == 3 and "90%" in said[0] and "(c) has no file to learn from" in said[1]
    assert "(b) has fewer than 5 files to test on (the fewest: 3 of b)" in said[2]
    assert say([20, 20, 0], [90, 3, 7], flattered=False) == said[1:]
    assert say([20, 20, 2], [50, 10, 0], single=False) == say([20, 20, 2], [50, 10, 0])[1:]


def test_knn_that_has_no_vote_is_refused():
    (x, y), (xt, _) = blobs(), blobs(seed=1)
    for options in ({"k": 0}, {"k": -1}, {"temperature": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(ValueError, match="give 1 or more"):
            knn_scores(x, y, xt, **options)
