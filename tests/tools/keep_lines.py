"""Take lines of `vicmae reproduce` into the package: python tests/tools/keep_lines.py FILE ...

Lines of experiments, variants and changes that the package knows are added to those that it has; a
line that is there already (experiment, variant, seed) is replaced. --commit NAME is noted on lines
that name none (made from a copy without its history).
--back FOLDER writes those of the package as FOLDER/EXPERIMENT.jsonl to go on.
"""
import gzip
import json
import sys
from pathlib import Path

from vicmae.experiments.grids import EXPERIMENTS

KEPT = Path(__file__).resolve().parents[2] / "vicmae" / "experiments" / "lines.jsonl.gz"


def back(folder):
    "The other way."
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(KEPT, "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()
    for name in EXPERIMENTS:
        mine = [text + "\n" for text in texts if json.loads(text)["experiment"] == name]
        path = folder / f"{name}.jsonl"
        if path.exists():
            sys.exit(f"{path} is there, and may hold newer runs: name another folder")
        path.write_text("".join(mine), encoding="utf-8")


def main(args):
    "Merge, sort, write; say how many of each."
    if "--back" in args:
        return back(Path(args[args.index("--back") + 1]))
    commit = args.pop(args.index("--commit") + 1) if "--commit" in args else ""
    files = [name for name in args if name != "--commit"]
    found = {}
    with gzip.open(KEPT, "rt", encoding="utf-8") as file:
        texts = file.read().splitlines()
    for name in files:
        texts += Path(name).read_text(encoding="utf-8").splitlines()
    order = {e.name: (i, list(e.variants)) for i, e in enumerate(EXPERIMENTS.values())}
    for line in map(json.loads, filter(None, map(str.strip, texts))):
        experiment = EXPERIMENTS.get(line["experiment"])
        wanted = experiment and experiment.variants.get(line["variant"])
        if wanted is None or json.loads(json.dumps(wanted)) != line["changes"]:
            print("left out:", line["experiment"], line["variant"], line["changes"])
            continue
        line["commit"] = line["commit"] or commit
        number, names = order[line["experiment"]]
        found[number, names.index(line["variant"]), line["seed"]] = line
    text = "".join(json.dumps(found[key], ensure_ascii=False) + "\n" for key in sorted(found))
    KEPT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))
    for name in EXPERIMENTS:
        print(name, sum(line["experiment"] == name for line in found.values()))
    print(f"{len(found)} lines, {KEPT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
