"""The command line: a table of functions, help at once, near misses named, errors told apart."""
import inspect
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.waiting import PATIENCE

from vicmae import cli
from vicmae.errors import BadValue, UserError
from vicmae.errors import DataError
from vicmae.model.vicmae import MODELS
from vicmae.errors import MediaError
from vicmae.pretraining.recipes import RECIPES
from vicmae.errors import CheckpointError

SAMPLES = str(Path(__file__).parents[2] / "data_samples")
HELP = """
import sys
from vicmae.cli import main
try: main([*sys.argv[1].split(), "--help"])
except SystemExit as end: assert not end.code
assert not {"torch", "torchvision", "timm", "matplotlib", "sklearn", "av"} & {*sys.modules}
"""


def run(capsys: pytest.CaptureFixture, *args: object) -> tuple[int, str, str]:
    """Exit code, output and errors of a command, in this process."""
    with pytest.raises(SystemExit) as end:
        cli.main([*map(str, args)])
    return end.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_a_typed_function_beside_what_it_serves(name):
    command = cli.COMMANDS[name]
    target = cli._load(command.target)
    assert target.__doc__ and (command.start or inspect.signature(target).parameters)
    if not command.start:
        outline = cli._outline(command.target)
        assert inspect.signature(outline) == inspect.signature(target)
        assert inspect.getdoc(outline) == inspect.getdoc(target)
    assert not command.start or cli._load(command.start)


def cpu(*command: str) -> float:
    """Seconds of the processor that a program takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True,
                          timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.clocks
def test_help_of_every_command_is_quick_and_loads_no_torch():
    """Python alone takes 0.02 s where 0.6 s is the bar."""
    bare = min(cpu("-c", "pass") for _ in range(3))
    for name in cli.COMMANDS:
        taken = min(cpu("-c", HELP, name) for _ in range(2))
        assert taken < 30 * bare, f"vicmae {name} --help takes {taken:.2f} s, Python {bare:.2f} s"


def test_help_lists_recipes_and_models_and_says_what_a_word_is(capsys):
    _, text, _ = run(capsys, "pretrain", "--help")
    assert all(name in text for name in (*RECIPES, *MODELS))
    for name, words in {"predict": ("CHECKPOINT", "a run of vicmae finetune", "FILES"),
                        "recipe": ("a run's folder, or a JSON file",), "slurm": ("--nodes",),
                        "evaluate knn": ("CKPT, the word after", "--val-data")}.items():
        code, text, _ = run(capsys, *name.split(), "--help")
        assert code == 0 and all(word in text for word in words), text
    code, text, _ = run(capsys, "evaluate", "--help")
    assert code == 0 and "evaluate transfer" in text and "predict" not in text


@pytest.mark.parametrize("typed, meant", [
    ("pretrian", "pretrain"), ("evalute", "evaluate"), ("evaluate kn", "evaluate knn"),
    ("pretrain -data clips", "--data"), ("pretrain --dta clips", "--data"),
    ("finetune --batch_sze 3", "--batch-size"), ("predict tiny --topp 3", "--top"),
    ("slurm --node 3", "--nodes"), ("slurm --command finetune --inti tiny", "--init"),
    ("recipe tiy", "tiny"), ("pretrain --recipe debugg", "debug"),
    ("finetune --recipe finetune_k400_bas", "finetune_k400_base"),
    ("pretrain --model vicmae_vit_smal_patch16", "vicmae_vit_small_patch16"),
    ("finetune --model vicmae_vit_bas_patch16", "vicmae_vit_base_patch16")])
def test_a_near_miss_is_suggested(typed, meant, capsys, tmp_path):
    more = ["--out", tmp_path] if "--model" in typed else []
    code, _, said = run(capsys, *typed.split(), *more)
    assert code == 2 and f"did you mean {meant}?" in said, said
    assert len(said.strip().splitlines()) == 1


def test_several_places(capsys):
    places = SAMPLES + "/clips", SAMPLES + "/pictures"
    shown = set()
    for words in ([",".join(places)], places, (places[0], "--data", places[1]),
                  (places[0], "--data=" + places[1])):
        code, text, said = run(capsys, "pretrain", "--dry-run", "--device", "cpu", "--data", *words)
        assert code == 0, said
        shown.add(text)
    assert len(shown) == 1 and "60 clips and 60 pictures" in shown.pop()


def test_a_batch_script_takes_them_as_typed(capsys, tmp_path):
    places = SAMPLES + "/clips", SAMPLES + "/pictures"
    code, text, said = run(capsys, "slurm", "--nodes", 2, "--data", *places, "--out", tmp_path)
    assert code == 0 and "60 clips and 60 pictures" in text, said
    assert f"  --data {places[0]} {places[1]}\n" in (tmp_path / "job.sbatch").read_text()


def test_errors_of_ours_have_a_common_type():
    for kind in (DataError, MediaError, CheckpointError, BadValue):
        assert issubclass(kind, UserError)
    assert issubclass(MediaError, OSError) and issubclass(DataError, ValueError)


@pytest.mark.parametrize("error, code", [
    (BadValue("give less"), 2), (DataError("no files"), 2), (OSError("disk full"), 2),
    (KeyboardInterrupt(), 130), (RuntimeError("a hole in the code"), 1), (KeyError("x"), 1)])
def test_only_errors_of_ours_are_softened(error, code, capsys, monkeypatch):
    def fail(name, args):
        raise error
    monkeypatch.setattr(cli, "_run", fail)
    got, _, said = run(capsys, "recipe")
    assert got == code and ("Traceback" in said) == (code == 1)
    assert ("please report" in said) == (code == 1) and (code != 2 or str(error) in said)
    if code != 130:
        monkeypatch.setenv("VICMAE_TRACEBACK", "1")
        with pytest.raises(type(error)):
            cli.main(["recipe"])


def test_python_runs_the_package(tmp_path):
    done = subprocess.run([sys.executable, "-m", "vicmae", "recipe", "tiny"], cwd=tmp_path,
                          capture_output=True, text=True, timeout=PATIENCE, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(SAMPLES).parent)})
    assert done.returncode == 0 and "mask_ratio" in done.stdout, done.stderr


def test_epochs_that_are_typed_count(capsys, tmp_path):
    """A recipe from a run has that run's number of steps; --epochs replaces it."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"recipe": "debug", "steps": 7, "data": SAMPLES}))
    words = ["pretrain", "--recipe", file, "--dry-run", "--device", "cpu"]
    assert "7 steps" in run(capsys, *words)[1]
    assert "6 steps, 2 epochs" in run(capsys, *words, "--epochs", 2)[1]
