"The weights that come with the package are what their record says, after `pip install` too."
import json
from pathlib import Path

import pytest

import vicmae
from vicmae.backbone.checkpoints import load_model, sample_files
from vicmae.pretraining.recipes import get_recipe
from vicmae.evaluation.shipped import accuracies, record, small_world
from vicmae.train.weights import SHIPPED, read_tensors

FOLDER = Path(vicmae.__file__).parent / "shipped"


@pytest.mark.parametrize("name", SHIPPED)
def test_record_fits_the_weights(name: str):
    page, model = record(name), load_model(name)
    metadata = read_tensors(FOLDER / f"{name}.safetensors")[1]
    run, recipe = json.loads(metadata["config"]), get_recipe(page["recipe"])
    assert page["steps"] == int(metadata["step"]) and page["seed"] == run["seed"]
    for field in ("model", "mask_ratio", "norm_pix_loss", "lam", "batch_size", "epochs", "blr"):
        assert run[field] == getattr(recipe, field), field
    assert model.mask_ratio == recipe.mask_ratio and model.img_size == recipe.img_size
    assert f"--recipe {name}" in " ".join(page["commands"])
    assert all(len(c) == 100 and c[-1] < c[0] for c in page["curves"].values())
    assert "/" not in run["data"] + run["out"] or run["data"] == "world/train"


@pytest.mark.floats
@pytest.mark.parametrize("name", SHIPPED)
def test_recorded_accuracy_is_measured_again(name: str, tmp_path: Path):
    "A small world, made from its seed: the accuracies of the record, to within two of 200 clips."
    model = load_model(name)
    measured = accuracies(model, *small_world(tmp_path, model.img_size))
    for row, values in record(name)["check"].items():
        for what, value in values.items():
            assert abs(measured[row][what] - value) <= 0.0101, (row, what, measured[row][what])
    assert measured["trained"]["linear, 1 frame"] > measured["raw pixels"]["linear, 1 frame"] + 0.1


def test_size_and_samples():
    weights = sum((FOLDER / f"{name}.safetensors").stat().st_size for name in SHIPPED)
    assert weights <= 8 * 2**20
    files = sample_files()
    assert [sum(f.suffix == end for f in files) for end in (".mp4", ".jpg")] == [6, 4]
