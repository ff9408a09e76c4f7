"""Move a flat house into rooms: run in a tree's root. Idempotent only on a fresh tree."""
import json, re, subprocess, sys
from pathlib import Path
ROOT = Path.cwd()
# old stem -> (new stem, new module or "")
MOVES = {
 "00_figures": ("000_figures", "figures"),
 "01_world": ("010_world", "data.world"), "03_sampling": ("011_sampling", "data.sampling"), "04_views": ("012_views", "data.views"),
 "06_masking": ("020_masking", "model.masking"), "07_autoencoder": ("021_autoencoder", "model.autoencoder"),
 "09_contrast": ("022_contrast", "model.contrast"), "10_schedule": ("023_schedule", "model.schedule"),
 "11_vicmae": ("024_vicmae", "model.vicmae"), "14_collapse": ("054_collapse", "backbone.collapse"),
 "01a_pictures": ("030_pictures", "media.pictures"), "02_video": ("031_video", "media.video"),
 "03a_lists": ("032_lists", "media.lists"), "03b_records": ("033_records", "media.records"),
 "04a_files": ("034_files", "media.files"), "04c_frames": ("035_frames", "media.frames"), "05_dataset": ("036_pairs", "media.pairs"),
 "08_distributed": ("040_distributed", "train.distributed"), "15_train": ("041_engine", "train.engine"),
 "15b_parallel": ("042_parallel", "train.parallel"), "11a_weights": ("043_weights", "train.weights"),
 "15a_runfolder": ("044_runfolder", "train.runfolder"), "15c_config": ("045_config", "train.config"), "16b_trainer": ("046_trainer", "train.trainer"),
 "12_checkpoints": ("050_checkpoints", "backbone.checkpoints"), "13_features": ("051_features", "backbone.features"), "13a_probes": ("052_probes", "backbone.probes"), "13b_vectors": ("053_vectors", "backbone.vectors"),
 "16_recipes": ("060_recipes", "pretraining.recipes"), "16a_task": ("061_parts", "pretraining.parts"), "17_pretrain": ("062_pretrain", "pretraining.job"),
 "04b_formats": ("070_catalog", "evaluation.catalog"), "17a_labelled": ("071_labelled", "evaluation.labelled"), "17b_report": ("072_report", "evaluation.report"),
 "18_evaluate": ("073_linear", "evaluation.linear"), "18a_transfer": ("074_transfer", "evaluation.transfer"),
 "19_classifier": ("080_classifier", "finetuning.classifier"), "19a_augment": ("081_augment", "finetuning.augment"), "19b_batches": ("082_clips", "finetuning.clips"),
 "19c_finetune_recipes": ("083_recipes", "finetuning.recipes"), "19d_finetune": ("084_finetune", "finetuning.job"), "19e_predict": ("085_predict", "finetuning.predict"),
 "20_shipped": ("090_shipped", "look.shipped"), "21_visualize": ("091_reconstruct", "look.reconstruct"), "21a_attention": ("092_attention", "look.attention"),
 "21b_correspondence": ("093_match", "look.match"), "21c_show": ("094_show", "look.show"), "22_canvas": ("095_canvas", "look.canvas"),
 "22a_controls": ("096_controls", "look.controls"), "22b_explore": ("097_explore", "look.explore"),
 "23_memory": ("100_memory", "cluster.memory"), "23a_follow": ("101_follow", "cluster.follow"), "24_launch": ("102_slurm", "cluster.slurm"), "24a_watch": ("103_watch", "cluster.watch"),
 "25_front_door": ("110_front_door", "__init__"), "26_cli": ("111_cli", "cli"),
 "30_laptop_to_slurm": ("190_laptop_to_slurm", ""),
 "31_solutions_method": ("191_solutions_method", ""), "31a_solutions_training": ("192_solutions_training", ""), "31b_solutions_model": ("193_solutions_model", ""),
 "31c_solutions_finetune": ("194_solutions_finetune", ""), "31d_solutions_seeing": ("195_solutions_seeing", ""), "31e_solutions_touching": ("196_solutions_touching", ""),
}
FRONT = set(sys.argv[1].split(",")) if len(sys.argv) > 1 else set()  # names of the front door: `vicmae.features(` is a call
here = {p.stem for p in (ROOT / "nbs").glob("*.ipynb")} - {"index"}
assert not here - MOVES.keys(), here - MOVES.keys()
print("not here:", sorted(MOVES.keys() - here))
MOVES = {k: v for k, v in MOVES.items() if k in here}
def git(*a): subprocess.run(["git", *map(str, a)], check=True, cwd=ROOT)
old_module = {}
for stem in MOVES:
    text = (ROOT / f"nbs/{stem}.ipynb").read_text()
    m = re.search(r"default_exp ([\w.]+)", text)
    if m: old_module[m[1]] = MOVES[stem][1]
print(len(old_module), "modules")
stems = {s: n for s, (n, _) in MOVES.items()}
for s, n in stems.items():
    git("mv", f"nbs/{s}.ipynb", f"nbs/{n}.ipynb")
    if (ROOT / f"nbs/images/thumbs/{s}.jpg").exists():
        git("mv", f"nbs/images/thumbs/{s}.jpg", f"nbs/images/thumbs/{n}.jpg")
for m in old_module:
    if m.startswith("__"): continue
    if (ROOT / f"vicmae/{m}.py").exists() and "." not in old_module[m] and old_module[m] == m: continue
    git("rm", "-q", f"vicmae/{m}.py")
stem_re = re.compile(r"(?<![A-Za-z0-9_])(" + "|".join(sorted(map(re.escape, stems), key=len, reverse=True)) + r")(?![A-Za-z0-9_])")
tab_re = re.compile(r'(\\?")(' + "|".join(sorted(old_module, key=len, reverse=True)) + r'):([A-Za-z_]\w*\\?")')
mod_re = re.compile(r"(?<![\w.])vicmae\.(" + "|".join(sorted(old_module, key=len, reverse=True)) + r")(?![\w])(\()?")
exp_re = re.compile(r"(default_exp )(" + "|".join(sorted(old_module, key=len, reverse=True)) + r")(?![\w.])")
def mod(m):
    if m[2] and m[1] in FRONT: return m[0]
    return f"vicmae.{old_module[m[1]]}{m[2] or ''}"
from_re = re.compile(r"from vicmae import (" + "|".join(old_module) + r")(?![\w,])( as \w+)?")
def frm(m):
    new = old_module[m[1]]
    room, _, name = new.rpartition(".")
    if not room: return m[0]
    return f"from vicmae.{room} import {name}" + (m[2] or (f" as {m[1]}" if name != m[1] else ""))
def rewrite(text):
    text = exp_re.sub(lambda m: m[1] + old_module[m[2]], text)
    text = from_re.sub(frm, text)
    text = tab_re.sub(lambda m: f"{m[1]}{old_module[m[2]]}:{m[3]}", text)
    text = mod_re.sub(mod, text)
    return stem_re.sub(lambda m: stems[m[1]], text)
files = [*ROOT.glob("nbs/*.ipynb"), *ROOT.glob("tests/**/*.py"), *ROOT.glob("docs/*.py"), *ROOT.glob("docs/*.md"), ROOT / "Makefile", ROOT / "settings.ini", *ROOT.glob(".github/**/*.yml"), *ROOT.glob("*.md")]
for path in files:
    old = path.read_text()
    new = rewrite(old)
    if new != old: path.write_text(new)
print("rewritten")
