"""A dry run against a real run, memory against autograd, the batch script in a pretended SLURM."""
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.waiting import PATIENCE, wait_for

from vicmae.model.autoencoder import fused_attention
from vicmae.cli import main
from vicmae.media.files import Sample
from vicmae.errors import DataError
from vicmae.cluster.slurm import SlurmOptions, slurm_script, slurm_seconds, write_slurm
from vicmae.pretraining.memory import checkpoints_kept, describe, faults, memory
from vicmae.train.parallel import kept_bytes
from vicmae.pretraining.job import planned, pretrain
from vicmae.pretraining.build import build_model
from vicmae.pretraining.recipes import get_recipe
from vicmae.run.folder import RunFolder
from vicmae.data.views import normalize
from support import ROOT

DEBUG = replace(get_recipe("debug"), data=str(ROOT / "data_samples"))


# ---------------------------------------------------------------- what a run will do
def test_a_dry_run_says_what_a_run_does(tmp_path: Path) -> None:
    config = replace(DEBUG, out=str(tmp_path / "run"), epochs=2.0, warmup=0.5, measure_every=0)
    found = planned(config)
    size, kept = checkpoints_kept(found)
    assert not (tmp_path / "run").exists()
    assert pretrain(config) == 0
    run = RunFolder(tmp_path / "run")
    rows, done = run.metrics(), run.settings()[0]
    assert found.steps == done["steps"] == len(rows) == 2 * found.data.plan.steps_per_epoch
    assert [row["lr"] for row in rows] == [found.lr_at(step) for step in range(found.steps)]
    assert max(row["lr"] for row in rows) == pytest.approx(found.peak)
    written = list(run.checkpoint_folder.glob("step_*"))
    assert len(written) == 2 * kept
    total = sum(path.stat().st_size for path in written)
    assert kept * size < total < 1.02 * kept * size
    assert "holds a run" in " ".join(faults(planned(config), 0))


def test_dry_run_writes_nothing(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    state, before = torch.get_rng_state(), set(ROOT.iterdir())
    assert pretrain(replace(DEBUG, out=str(tmp_path / "run"), dry_run=True)) == 0
    said = capsys.readouterr().out
    assert "on 4 process(es) 8 each" in said and "60 clips and 60 pictures" in said
    assert not list(tmp_path.iterdir()) and set(ROOT.iterdir()) == before
    assert torch.equal(state, torch.get_rng_state())


def files(clips: int, pictures: int) -> list[Sample]:
    """Files that are not there."""
    return [*(Sample(f"{i}.mp4", "clip") for i in range(clips)),
            *(Sample(f"{i}.jpg", "picture") for i in range(pictures))]


def test_what_cannot_run_is_refused() -> None:
    with pytest.raises(DataError, match="ranks need"):
        planned(DEBUG, 64, files(20, 20))
    with pytest.raises(DataError, match="does not exist"):
        pretrain(replace(DEBUG, data="nowhere", dry_run=True))


def test_nothing_wrong_means_no_warning() -> None:
    good = replace(get_recipe("paper_base_k400_in1k"), device="cuda", out="nowhere")
    trainer = planned(good, 64, files(24_000, 128_116))
    assert faults(trainer, memory(trainer)["total"]) == []


def test_the_largest_recipe_is_described() -> None:
    text = describe(planned(replace(get_recipe("paper_large_k400_in1k"), device="cuda"), 64,
                            files(5000, 5000)))
    assert "351.1 M parameters" in text


# ---------------------------------------------------------------- memory
SIZES = {"debug": {}, "small": dict(img_size=160, projector_hidden_dim=256, batch_size=2),
         "tiny": dict(batch_size=32, head="paper", shared_heads=False)}


@pytest.mark.floats
@pytest.mark.parametrize("bf16", (False, True))
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("device", ("cpu", "cuda"))
def test_memory_is_what_autograd_keeps(name: str, bf16: bool, device: str) -> None:
    config = replace(get_recipe(name), device=device, precision="bf16" if bf16 else "fp32",
                     measure_every=0, **SIZES[name])
    model, pairs, side = build_model(config), config.batch_size, config.img_size
    views = torch.randint(0, 256, (pairs, 2, 3, side, side), dtype=torch.uint8)

    def run() -> torch.Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            near = model.represent(normalize(views), torch.rand(pairs, 2, model.num_patches))
            return near.loss_recon + model.compare(near.pooled).loss_contrast

    with fused_attention(device == "cuda"):  # the fused kernel of a CPU keeps what a card's keeps
        kept = kept_bytes(run, list(model.parameters()))
    found = memory(planned(config, 1, files(300, 0)))
    assert found["activations"] + found["bf16 weights"] == pytest.approx(kept, rel=0.01)


@pytest.mark.parametrize("checkpointing", (False, True))
def test_only_what_grows_with_the_rows_is_scaled(checkpointing: bool) -> None:
    """Copies of weights in bf16 are made once, however many rows there are."""
    base = replace(get_recipe("tiny"), device="cpu", batch_size=128,
                   activation_checkpointing=checkpointing)
    room = {precision: memory(planned(replace(base, precision=precision), 1, files(300, 0)))
            for precision in ("bf16", "fp32")}
    assert room["bf16"]["working"] < room["fp32"]["working"]


def test_memory_of_micro_batches_and_shards() -> None:
    base = replace(get_recipe("paper_base_k400_in1k"), device="cuda", batch_size=512)
    many = lambda **changes: memory(planned(replace(base, **changes), 8, files(1000, 0)))
    one, parts, exact = many(), many(accum_iter=8), many(accum_iter=8, exact_accum=True)
    assert parts["activations"] < one["activations"] / 7.5
    assert one["activations"] / 9 < exact["activations"] < one["activations"] / 7
    shared = many(parallel="fsdp")
    assert 8 * shared["moments"] == one["moments"] and shared["gathered"] > 0 == one["gathered"]


# ---------------------------------------------------------------- the batch script
PYTHON = """#!/bin/bash
echo "$@" >> calls
case "$*" in
  *--dry-run*) exit $DRY ;;
  -c*) exec {python} "$@" ;;
esac
say() {{ echo "{{\\"state\\": \\"$1\\", \\"step\\": 1}}" > "$RUN/status.json"; }}
[ -z "$SAVES" ] || trap 'say $SAVES; exit 1' USR1
touch started
for i in $(seq $TENTHS); do sleep 0.1; done
[ -z "$STATE" ] || say $STATE
exit $CODE
"""
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
trap 'kill -USR1 $task' USR1
"$@" & task=$!
while kill -0 $task 2>/dev/null; do wait $task; done
wait $task
"""
CASES = {  # what the step does, and what the script should do: exit code, back into the queue?
    "finishes": (dict(STATE="finished"), 0, False),
    "is warned and saves": (dict(SAVES="preempted", TENTHS=80, warn=True), 1, True),
    "is warned while it starts": (dict(TENTHS=80, warn=True), 138, True),
    "is warned at its end": (dict(SAVES="finished", TENTHS=80, warn=True), 0, False),
    "is warned and can't save": (dict(SAVES="failed", TENTHS=80, warn=True), 1, False),
    "hears SIGTERM by itself": (dict(STATE="preempted", CODE=1), 1, True),
    "fails": (dict(STATE="failed", CODE=1), 1, False),
    "can't start, after a preemption": (dict(old="preempted", CODE=1), 1, False),
    "has a wrong argument": (dict(DRY=2), 2, False),
}


def start_script(folder: Path, **settings: object) -> subprocess.Popen:
    """The script in a folder whose python, srun and scontrol are pretended."""
    run = folder / "a run"
    run.mkdir()
    if "old" in settings:
        (run / "status.json").write_text(json.dumps({"state": settings["old"], "step": 1}))
    for name, text in (("python", PYTHON.format(python=sys.executable)), ("srun", SRUN),
                       ("scontrol", '#!/bin/bash\necho "$@" >> requeued\n')):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    config = replace(DEBUG, out=str(run))
    arguments = ["--recipe", "debug", "--data", "it's $HOME", "--out", str(run)]
    (folder / "job.sh").write_text(slurm_script(SlurmOptions(nodes=2), arguments, config))
    given = {"STATE": "", "SAVES": "", "CODE": 0, "DRY": 0, "TENTHS": 1} | settings
    slurm = {"SLURM_JOB_ID": 7, "SLURM_CPUS_PER_TASK": 1, "SLURM_JOB_NODELIST": "here"}
    env = {k: str(v) for k, v in (given | slurm).items()} | {"RUN": str(run)}
    env = {**os.environ, **env, "PATH": f"{folder}:{os.environ['PATH']}"}
    return subprocess.Popen(["bash", "job.sh"], cwd=folder, env=env, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


@pytest.mark.clocks
@pytest.mark.parametrize("case", CASES)
def test_script_decides(case: str, tmp_path: Path) -> None:
    settings, code, requeued = CASES[case]
    job = start_script(tmp_path, **settings)
    if settings.get("warn"):
        wait_for("start of the training step",
                 lambda: (tmp_path / "started").exists() or job.poll() is not None)
        job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == code, said
    queued = (tmp_path / "requeued").read_text() if (tmp_path / "requeued").exists() else ""
    assert queued == ("requeue 7\n" if requeued else ""), said
    calls = (tmp_path / "calls").read_text()
    assert "--data it's $HOME" in calls and "--resume" in calls
    assert ("torch.distributed.run" in calls) == ("DRY" not in settings)


def test_script_for_hard_names() -> None:
    out = "it's 100% \"new\" $run"
    arguments = ["--resume", "--out", out]
    text = slurm_script(SlurmOptions(job_name="a"), arguments, replace(DEBUG, out=out))
    assert "100%% " in next(line for line in text.splitlines() if "--output" in line)
    check = text[:text.index("# Two jobs")] + 'printf "%s|" "${arguments[@]}" "$run"'
    said = subprocess.run(["bash"], input=check, capture_output=True, text=True)
    assert said.stdout == f"--out|{out}|{out}|" and not said.stderr


def test_times() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        slurm_script(SlurmOptions(time="0:03:59"), [], DEBUG)
    slurm_script(SlurmOptions(time="0:04:00"), [], DEBUG)
    for text, seconds in (("5", 300), ("5:30", 330), ("1:00:01", 3601), ("2-3", 183600),
                          ("1-02:03", 93780), ("1-02:03:04", 93784)):
        assert slurm_seconds(text) == seconds
    for text in ("", "1h", "1-", "1:2:3:4", "-5"):
        with pytest.raises(ValueError, match="hours:minutes:seconds"):
            slurm_seconds(text)


def test_commands(tmp_path: Path, monkeypatch, capsys) -> None:
    """`vicmae pretrain --dry-run` and `vicmae slurm`, as typed."""
    monkeypatch.chdir(tmp_path)

    def vicmae(*words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            main([str(w) for w in words])
        return ended.value.code

    pretraining = "--recipe", "debug", "--data", ROOT / "data_samples", "--steps", 7
    assert vicmae("pretrain", *pretraining, "--dry-run") == 0
    assert "run      7 steps" in capsys.readouterr().out and not list(tmp_path.iterdir())
    assert vicmae("slurm", "--nodes", 2, "--gpus-per-node", 4, *pretraining, "--out", "a run") == 0
    assert "on 8 process(es) 4 each" in capsys.readouterr().out
    script = (tmp_path / "a run" / "job.sbatch").read_text()
    assert f"python={sys.executable}" in script and "--gpus-per-node=4" in script
    assert "  --steps 7\n" in script and "WORLD_SIZE=8" in script
    assert vicmae("slurm", "--nodes", 2, *pretraining, "--nonsense", 3) == 2
    assert vicmae("slurm", "--data", "nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_script_is_not_written_where_the_layout_fails(tmp_path: Path) -> None:
    config = replace(DEBUG, out=str(tmp_path / "run"))
    with pytest.raises(DataError):
        write_slurm(SlurmOptions(nodes=64, gpus_per_node=8), [], config, pretrain)
    assert not (tmp_path / "run").exists()
