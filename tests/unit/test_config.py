"""What is known of a run's values stands beside them, and decides what may change on a resume."""
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from vicmae.backbone.checkpoints import load_model
from vicmae.cli import main
from vicmae.run.config import BESIDE, RunConfig, differences, facts_of, method_of, with_stored
from vicmae.finetuning.recipes import FINETUNE_RECIPES, FinetuneConfig
from vicmae.pretraining.job import pretrain
from vicmae.run.log import NOT_FINITE
from vicmae.pretraining.recipes import RECIPES, PretrainConfig, describe, get_recipe, source_of
from vicmae.run.folder import RunFolder
from vicmae.pretraining.build import build_model

SAMPLES = str(Path(__file__).parents[2] / "data_samples")
KINDS = {"pretrain": (PretrainConfig, RECIPES), "finetune": (FinetuneConfig, FINETUNE_RECIPES)}


def vicmae(*args: object) -> SimpleNamespace:
    """What the command says and returns, in this process, which has loaded torch already."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([*map(str, args)])
    return SimpleNamespace(returncode=end.value.code or 0, stdout=out.getvalue(),
                           stderr=err.getvalue())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, in a folder of its own."""
    out = tmp_path_factory.mktemp("begun") / "run"
    assert pretrain(short(out)) == 0
    return out


def short(out: Path, **changes: object) -> PretrainConfig:
    given = {"data": SAMPLES, "steps": 2, "batch_size": 4, "cache": "none", "tensorboard": False,
             "device": "cpu", "precision": "fp32", "measure_every": 0, "out": str(out)}
    return replace(RECIPES["debug"](), **{**given, **changes})


def again(begun: Path, folder: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(begun, folder / "run"))


# ---------------------------------------------------------------- the facts
@pytest.mark.parametrize("kind, recipes", KINDS.values(), ids=KINDS)
def test_every_number_has_a_range_and_every_value_of_the_method_a_source(kind, recipes):
    facts = facts_of(kind)
    numbers = {f.name for f in fields(kind) if any(n in str(f.type) for n in ("int", "float"))}
    bare = [n for n in numbers if facts[n].low is None and facts[n].above is None]
    assert not bare, f"numbers without a range: {bare}"
    assert not {*facts} & {*BESIDE}
    for name, make in recipes.items():
        config = make()
        config.check()
        assert all(source_of(f, getattr(config, f), kind.of) for f in method_of(kind)), name
        assert config == get_recipe(name, recipes) and name in describe(config, recipes)


def test_what_every_run_has_stands_once():
    shared = {f.name for f in fields(RunConfig)}
    for kind, _ in KINDS.values():
        assert shared < {f.name for f in fields(kind)}
        own = {n for n in vars(kind)["__annotations__"] if n != "of"} & shared
        assert all(getattr(kind(), n) != getattr(RunConfig(), n) or n in (
            "data", "val_data", "frames_as", "model", "batch_size", "accum_iter", "beta1",
            "eval_every") for n in own), "the same default is written again"


@pytest.mark.parametrize("kind, name, value", [
    ("pretrain", "blr", -1.0), ("pretrain", "blr", True), ("pretrain", "epochs", float("nan")),
    ("pretrain", "steps", 1.5), ("pretrain", "compile", "yes"), ("pretrain", "wandb", 3),
    ("pretrain", "model", "vicmae_vit_debugg"), ("pretrain", "frames", "near"),
    ("pretrain", "lam_start", 1.0), ("pretrain", "pairs_per_video", 33),
    ("pretrain", "accum_iter", 64), ("pretrain", "patch_size", 7),
    ("finetune", "test_crops", 2), ("finetune", "num_workers", 5000),
    ("finetune", "optimizer", "adam"), ("finetune", "keep_best", True)])
def test_senseless_values_are_refused_before_anything_is_opened(kind, name, value, tmp_path):
    from vicmae.finetuning.job import finetune

    _, recipes = KINDS[kind]
    config = replace(next(iter(recipes.values()))(), data="/no/such/folder",
                     out=str(tmp_path / "run"), device="cpu", **{name: value})
    train = {"pretrain": pretrain, "finetune": finetune}[kind]
    dry = lambda asked: train(replace(asked, dry_run=True))
    word = name.split("_")[0].rstrip("s")
    for act in (type(config).check, train, dry):
        with pytest.raises(ValueError, match=word) as refused:
            act(config)
        assert "/no/such/folder" not in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------- a run that goes on
def test_a_resume_needs_no_more_than_the_folder(begun, tmp_path):
    run = again(begun, tmp_path)
    done = vicmae("pretrain", "--out", run, "--resume", "--steps", 3)
    assert done.returncode == 0, done.stderr
    stored = json.loads((run / "config.json").read_text())
    assert stored["batch_size"] == 4 and stored["recipe"] == "debug" and stored["of"] == "pretrain"
    assert stored["changes"] == [{"step": 2, "name": "steps", "before": 2, "after": 3}]
    assert vicmae("pretrain", "--out", run, "--resume").returncode == 0


def test_what_may_change_is_taken_and_noted(begun, tmp_path):
    run = again(begun, tmp_path)
    done = vicmae("pretrain", "--out", run, "--resume", "--steps", 3, "--blr", 0.001,
                  "--num-workers", 1, "--clip-grad", 1, "--data", SAMPLES + "/clips")
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if "goes on with other values" in line]
    assert len(said) == 1 and "blr was 0.008, now 0.001" in said[0]
    changes = json.loads((run / "config.json").read_text())["changes"]
    assert {c["name"] for c in changes} == {"steps", "blr", "num_workers", "clip_grad", "data"}
    rows = RunFolder(run).metrics()
    assert rows[2]["lr"] < rows[1]["lr"] and [row["step"] for row in rows] == [1, 2, 3]


@pytest.mark.parametrize("option, value", [
    ("--mask-ratio", 0.5), ("--seed", 1), ("--batch-size", 8), ("--recipe", "tiny"),
    ("--weight-decay", 0.1), ("--depth", 2)])
def test_what_is_frozen_is_refused_in_a_sentence(begun, option, value):
    for more in ((), ("--dry-run",)):
        done = vicmae("pretrain", "--out", begun, "--resume", option, value, *more)
        name = option[2:].replace("-", "_")
        assert done.returncode == 2 and f"({name} was " in done.stderr, done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_old_folder_goes_on(begun, tmp_path):
    """Values that nobody knows any more are named; those that it lacks are the recipe's."""
    run = again(begun, tmp_path)
    stored = json.loads((run / "config.json").read_text())
    for name in ("of", "changes", "depth", "patch_size", "norm_pix_loss"):
        del stored[name]
    (run / "config.json").write_text(json.dumps(stored | {"colour_of_the_sky": "blue"}))
    done = vicmae("pretrain", "--out", run, "--resume", "--steps", 3)
    assert done.returncode == 0, done.stderr
    assert "colour_of_the_sky" in done.stdout and "passed over" in done.stdout
    assert json.loads((run / "config.json").read_text())["norm_pix_loss"] is False


def test_the_kinds_are_not_confused(begun):
    done = vicmae("finetune", "--out", begun, "--resume")
    assert done.returncode == 2 and "holds a run of pretrain" in done.stderr


def test_the_advice_after_steps_that_were_not_finite_works(begun, tmp_path):
    """Each piece of advice, as it is written, on a run that it was given to."""
    out = tmp_path / "run"
    failed = vicmae("pretrain", "--recipe", "debug", "--data", SAMPLES, "--out", out, "--steps", 6,
                    "--batch-size", 4, "--cache", "none", "--blr", 1e6, "--max-skipped", 2,
                    "--warmup", 0, "--device", "cpu", "--precision", "fp32", "--no-tensorboard",
                    "--checkpoint-every", 1)
    assert failed.returncode == 2 and NOT_FINITE.split(";")[0] in failed.stderr, failed.stderr
    for advice in (["--precision", "fp32"], ["--clip-grad", "1"], ["--blr", "1e-4"]):
        assert " ".join(advice[:1]) in NOT_FINITE
        done = vicmae("pretrain", "--out", out, "--resume", *advice, "--dry-run")
        assert done.returncode == 0, done.stderr
    done = vicmae("pretrain", "--out", out, "--resume", "--blr", "1e-4", "--max-skipped", 0)
    assert "holds a run" not in done.stderr and "unknown" not in done.stderr


def test_stored_values_and_differences():
    config, stored = PretrainConfig(), {"lam": 0.5, "out": "there", "gone": 1, "classes": []}
    mended, odd = with_stored(config, stored)
    assert mended.lam == 0.5 and mended.out == config.out and odd == ["gone"]
    assert differences(config, stored, frozen=True) == [("lam", 0.5, config.lam)]
    assert not differences(config, stored, frozen=False)
    assert not differences(config, {"steps": 7}, frozen=False)  # not given: the run's


# ---------------------------------------------------------------- recipes from files, model sizes
def test_a_run_and_a_file_are_recipes(begun, tmp_path):
    config = get_recipe(str(begun))
    assert config.batch_size == 4 and config.out == "runs/pretrain" and config.recipe == str(begun)
    file = tmp_path / "mine.json"
    file.write_text('{"recipe": "tiny", "lam": 0.5}')
    assert get_recipe(str(file)) == replace(RECIPES["tiny"](), lam=0.5, recipe=str(file))
    sheet = vicmae("recipe", file)
    assert sheet.returncode == 0 and "given by hand" in sheet.stdout
    file.write_text('{"recipe": "finetune_tiny_objects", "init": "tiny64"}')
    assert "tiny64" in vicmae("recipe", file).stdout
    for text in ('{"lamda": 1}', '{"lam": "much"}', "[]", "", '{"model": "vit"}'):
        file.write_text(text)
        done = vicmae("pretrain", "--recipe", file, "--dry-run")
        assert done.returncode == 2 and "Traceback" not in done.stderr, (text, done.stderr)


def test_sizes_of_a_model_are_stored_resumed_and_rebuilt(tmp_path):
    sizes = {"patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "decoder_embed_dim": 32,
             "decoder_depth": 1, "decoder_num_heads": 2}
    out = tmp_path / "run"
    words = [w for name, n in sizes.items() for w in ("--" + name.replace("_", "-"), n)]
    more = ["--data", SAMPLES, "--batch-size", 4, "--cache", "none", "--device", "cpu",
            "--no-tensorboard", "--steps", 1]
    done = vicmae("pretrain", "--recipe", "debug", "--out", out, *words, *more)
    assert done.returncode == 0, done.stderr
    done = vicmae("pretrain", "--out", out, "--resume", "--steps", 2)
    assert done.returncode == 0, done.stderr
    model = load_model(out)
    assert {name: model.config[name] for name in sizes} == sizes and len(model.blocks) == 2
    weights = load_file(sorted(out.glob("checkpoints/*.safetensors"))[-1])
    assert weights["patch_embed.proj.weight"].shape == (48, 3, 16, 16)
    assert len(build_model(short(out, depth=1)).blocks) == 1
    with pytest.raises(ValueError, match="heads"):
        build_model(short(out, num_heads=7))
