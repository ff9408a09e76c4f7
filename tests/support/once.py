"""Work that several workers need and one of them does."""
import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def once(folder: Path, name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns (JSON), made by whichever worker comes first; the others wait for it.

    `folder` is one that all workers share, such as `tmp_path_factory.getbasetemp().parent`.
    """
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = folder / f"{name}.json"
        if not place.exists():
            place.write_text(json.dumps(make()))
        return json.loads(place.read_text())
