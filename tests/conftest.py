"""Longest tests first, so that two workers finish together; markers; a last line that counts."""
import os
import signal
import sys

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "100"  # of whatever terminal the tests are started from
# What a job of several processes, or a terminal, would tell the programs that tests start.
TOLD = ("SLURM_", "TORCHELASTIC_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
        "MASTER_ADDR", "MASTER_PORT", "FORCE_COLOR", "CLICOLOR_FORCE")
for _name in [name for name in os.environ if name.startswith(TOLD)]:
    del os.environ[_name]
# A shell lets what it starts in the background ignore Ctrl-C, and programs hand that down.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# What takes longest, in this order; everything else keeps its place behind.
LONGEST = ["test_site", "test_wheel", "runs[083_pretrain", "runs[052_engine",
           "runs[050_distributed", "runs[024_vicmae", "runs[072_features",
           "runs[021_autoencoder", "runs[010_world", "runs["]

MARKERS = {
    "floats": "compares what floating-point arithmetic gives: threads, kernels and versions show",
    "clocks": "waits, measures or kills at a moment: the speed and the load of the machine show",
}  # `pytest -m "floats or clocks" tests` runs both; tests/variations.py does so in several ways


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def _rank(item: pytest.Item) -> int:
    return next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_rank)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The very last line: `N passed, N failed`, and `, N skipped` where there are any."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    count = {kind: len(reporter.stats.get(kind, [])) for kind in
             ("passed", "xpassed", "failed", "error", "skipped", "xfailed")}
    skipped = count["skipped"] + count["xfailed"]
    line = f"{count['passed'] + count['xpassed']} passed, {count['failed'] + count['error']} failed"
    sys.stderr.flush()
    print(line + (f", {skipped} skipped" if skipped else ""), flush=True)
