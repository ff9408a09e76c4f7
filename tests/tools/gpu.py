"""What only a graphics card can show: `bash tests/gpu.sh [FILE]` prints a line for each, in JSON.

Every check is small; together they take about two minutes. A check that fails is told and does
not stop the others; the exit code says whether one did. Speeds are of random pixels on the card.
Names as further arguments choose among the checks.
"""
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from vicmae.backbone.checkpoints import parity
from vicmae.backbone.collapse import collapse_measures
from vicmae.model.vicmae import MODELS, vicmae_vit_tiny_patch8
from vicmae.pretraining.build import PretrainTask
from vicmae.pretraining.job import planned, pretrain
from vicmae.pretraining.memory import memory
from vicmae.pretraining.recipes import debug, lab, paper_base_k400_in1k
from vicmae.run.folder import RunFolder
from vicmae.train.engine import autocast_for, train_step

ROOT = Path(__file__).resolve().parents[2]
CUDA = torch.device(os.environ.get("CHECK_ON", "cuda"))  # cpu: to try this script


def batch_of(rows, size, patch, device, views=2):
    "Random pixels, and everything that belongs to them."
    g = torch.Generator().manual_seed(0)
    made = {"views": torch.randint(0, 256, (rows, views, 3, size, size), generator=g,
                                   dtype=torch.uint8),
            "noise": torch.rand(rows, views, (size // patch) ** 2, generator=g),
            "sample": torch.arange(rows), "video": torch.arange(rows),
            "times": torch.zeros(rows, views), "shift": torch.zeros(rows)}
    return {k: v.to(device) for k, v in made.items()}


def stepper(config, model, device, steps=100):
    "A function that does one step, and its optimiser."
    task = PretrainTask(model, config, steps)
    optimizer = task.make_optimizer(config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-4
    cast = autocast_for(device, config.precision)
    return lambda batch, step: train_step(model, task, batch, step, optimizer=optimizer,
                                          autocast=cast, seed=0), optimizer


def reference_numbers():
    "The authors' function, in float64."
    file = ROOT / "tests" / "parity" / "normpix_mask75.safetensors"
    worst = max(parity(str(file), torch.float64, CUDA).values())
    assert worst < 1e-6, worst
    return {"worst relative error": worst}


def same_as_a_processor():
    "Losses of ten steps here and there, float32."
    rows = []
    for device in (torch.device("cpu"), CUDA):
        torch.manual_seed(0)
        model = vicmae_vit_tiny_patch8().to(device)
        config = replace(lab(), precision="fp32", measure_every=0)
        step, _ = stepper(config, model, device)
        batch = batch_of(64, 32, 8, device)
        rows.append([float(step(batch, i)["loss"].detach()) for i in range(10)])
    worst = max(abs(a - b) / abs(a) for a, b in zip(*rows))
    assert worst < 1e-3, rows
    return {"largest relative difference of ten losses": worst}


def bf16_beside_float32():
    "Gradients of one step of ViT-B in both."
    grads = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        model = MODELS["vicmae_vit_base_patch16"]().to(CUDA)
        config = replace(paper_base_k400_in1k(), precision=precision, lam_schedule="constant",
                         lam_length=0.0, measure_every=0)
        task = PretrainTask(model, config, 100)
        batch = batch_of(16, 224, 16, CUDA)
        with autocast_for(CUDA, precision)():
            named, pooled = task.local(batch, 0)
            loss = named["loss"] + task.whole(pooled, batch, 0)["loss"]
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()
                                if p.grad is not None]))
    alike = torch.nn.functional.cosine_similarity(*grads, dim=0).item()
    assert alike > 0.98, alike
    return {"cosine of the gradients": alike}


def no_waiting_inside_a_step():
    "A step asks the card for no value."
    torch.manual_seed(0)
    model = vicmae_vit_tiny_patch8().to(CUDA)
    step, _ = stepper(replace(lab(), precision="bf16", measure_every=1), model, CUDA)
    batch = batch_of(64, 32, 8, CUDA)
    step(batch, 0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        step(batch, 1)
    torch.cuda.set_sync_debug_mode("default")
    places = {f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchron" in str(w.message)}
    assert not places, sorted(places)
    return {}


def measures_of_collapse():
    "They agree with those of a processor."
    x = torch.randn(256, 2, 96, generator=torch.Generator().manual_seed(0))
    here, there = collapse_measures(x.to(CUDA)), collapse_measures(x)
    worst = max(abs(float(here[k]) - float(there[k])) / abs(float(there[k])) for k in there)
    assert worst < 1e-3, worst
    return {"largest relative difference": worst}


def a_run_and_its_resume():
    "Files to a checkpoint: 20 steps at once, and 10 and 10."
    with tempfile.TemporaryDirectory() as folder:
        base = replace(debug(), data=str(ROOT / "data_samples"), device=CUDA.type, steps=20,
                       num_workers=2, checkpoint_every=10, precision="bf16")
        assert pretrain(replace(base, out=f"{folder}/whole")) == 0
        weights = {}
        for name in ("whole", "parts"):
            if name == "parts":
                shutil.copytree(f"{folder}/whole", f"{folder}/parts")
                for file in Path(folder, "parts", "checkpoints").glob("*00020.*"):
                    file.unlink()
                assert pretrain(replace(base, out=f"{folder}/parts", resume=True)) == 0
            rows = RunFolder(f"{folder}/{name}").metrics()
            weights[name] = [row["loss"] for row in rows]
        worst = max(abs(a - b) / abs(a) for a, b in zip(weights["whole"], weights["parts"]))
    assert len(weights["parts"]) == 20 and worst < 1e-3, weights
    return {"largest relative difference of 20 losses": worst}


def exact_accumulation():
    "Two passes over four parts: the gradient of the whole batch."
    found = []
    for parts in (1, 4):
        torch.manual_seed(0)
        model = vicmae_vit_tiny_patch8().to(CUDA)
        config = replace(lab(), precision="fp32", lam_schedule="constant", lam_length=0.0,
                         measure_every=0)
        task = PretrainTask(model, config, 100)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = [p.detach().clone() for p in model.parameters()]
        train_step(model, task, batch_of(64, 32, 8, CUDA), 0, optimizer=optimizer,
                   accum_iter=parts, exact=True)
        found.append(torch.cat([(a - b).flatten() for a, b in
                                zip(model.parameters(), before)]).detach())
    error = float((found[0] - found[1]).norm() / found[0].norm())
    assert error < 1e-3, error
    return {"relative difference": error}


def memory_estimate():
    "What a dry run says of a step, beside the peak."
    rows = {}
    for model_name, rows_ in (("vicmae_vit_base_patch16", 64), ("vicmae_vit_large_patch16", 64)):
        config = replace(paper_base_k400_in1k(), model=model_name, batch_size=rows_, device="cuda",
                         precision="bf16", data=str(ROOT / "data_samples" / "pictures"),
                         out="nowhere", measure_every=0, cache="none")
        said = memory(planned(replace(config, batch_size=8)))["total"]
        trainer = planned(replace(config, batch_size=8))
        model = step = optimizer = batch = None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        model = MODELS[model_name]().to(CUDA)
        step, optimizer = stepper(config, model, CUDA)
        batch = batch_of(trainer.data.plan.batch_size, 224, 16, CUDA)
        for i in range(2):
            step(batch, i)
        peak = torch.cuda.max_memory_allocated() - base
        rows[model_name] = {"said GB": said / 1e9, "true GB": peak / 1e9}
        assert 0.9 < said / peak < 1.4, rows
    return rows


def speed(name, rows, compiled):
    "Pairs in a second of whole steps: forward, backward, AdamW; bfloat16."
    torch.manual_seed(0)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model = MODELS[name]().to(CUDA)
    config = replace(paper_base_k400_in1k(), model=name, precision="bf16", measure_every=0)
    if compiled:
        for block in [*model.blocks, *model.decoder_blocks]:
            block.compile(dynamic=False)
    step, _ = stepper(config, model, CUDA)
    batch = batch_of(rows, 224, 16, CUDA)
    for i in range(3):
        step(batch, i)
    torch.cuda.synchronize()
    start, count = time.perf_counter(), 8
    for i in range(count):
        step(batch, i)
    torch.cuda.synchronize()
    took = (time.perf_counter() - start) / count
    return {"pairs a second": rows / took, "ms a step": 1000 * took,
            "peak GB": torch.cuda.max_memory_allocated() / 1e9}


def main():
    "All checks, a line each."
    where = sys.argv[1] if len(sys.argv) > 1 else ""
    card = {"card": torch.cuda.get_device_name(), "torch": torch.__version__}
    jobs = [(f.__name__, f) for f in (reference_numbers, same_as_a_processor, bf16_beside_float32,
                                      no_waiting_inside_a_step, measures_of_collapse,
                                      exact_accumulation, memory_estimate, a_run_and_its_resume)]
    for name, rows in (("base", 256), ("large", 192)):
        for compiled in (False, True) if name == "base" else (False,):
            model = f"vicmae_vit_{name}_patch16"
            label = f"speed of ViT-{name[0].upper()}/16, {rows} pairs" + ", compiled" * compiled
            jobs.append((label, lambda m=model, r=rows, c=compiled: speed(m, r, c)))
    failed, wanted = 0, sys.argv[2:]  # beginnings of names; none: all
    jobs = [job for job in jobs if not wanted or job[0].startswith(tuple(wanted))]
    for name, job in jobs:
        start = time.perf_counter()
        try:
            with contextlib.redirect_stdout(sys.stderr):
                line = {"check": name.replace("_", " "), "passed": True, **job()}
        except Exception as error:
            traceback.print_exc()
            line = {"check": name.replace("_", " "), "passed": False, "why": str(error)[:300]}
            failed += 1
        line |= {"seconds": round(time.perf_counter() - start, 1), **card}
        print(json.dumps(line), flush=True)
        if where:
            with open(where, "a") as file:
                file.write(json.dumps(line) + "\n")
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
