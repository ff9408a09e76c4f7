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
LONGEST = ["test_site", "right_result_or_one_sentence", "test_wheel", "runs[082", "runs[083",
           "runs[132", "runs[052", "runs[161", "runs[053", "runs[050", "runs[024", "runs["]

# Run by `make test-slow`, before a release: beginnings of what follows "file::test" in a node id.
# Each costs much for what it alone can find, and a smaller one of its kind is in `make test`.
SLOW = {
    "test_docs": "site colab_cell_installs",
    "test_wheel": "installed_wheel_shows",
    "test_notebooks": "notebook_runs[190 notebook_runs[191 notebook_runs[192 notebook_runs[193 "
                      "notebook_runs[194 notebook_runs[195 notebook_runs[196",
    "test_faults": "a_damaged_checkpoint_is_named_and_the_one_before_is_used[.optim "
                   "a_damaged_checkpoint_does_not a_full_disk[2 a_file_that_cannot_grow "
                   "a_batch_that_is_not_finite_is_skipped_by_all[2 nothing_finite_any_more[2 "
                   "a_killed_rank_ends_the_others[0 a_frozen_rank a_rank_that_stays_frozen "
                   "torchrun_starts_again a_signal_saves_and_stops[2 a_signal_saves_and_stops[10 "
                   "a_signal_during_decoding[2 the_data_goes_away[2 the_data_goes_away[0-2 "
                   "one_rank_has_no_data a_helping_process_is_killed[decodes "
                   "a_clock_that_jumps ranks_and_workers_may_change sharded_on_two",
    "test_reproduce": "what_is_done_when_it_ends_early a_killed_worker a_run_that_fails",
    "test_pretrain": "killed_at_any_moment workers_change_nothing[2 a_damaged_checkpoint "
                     "a_signal_saves bad_files_do_not_stop_it[memory",
    "test_finetune": "killed_and_resumed_it_is_the_same_run[15 two_ranks_are_one[more1 "
                     "two_ranks_are_one[more2 a_signal_ends_a_test statistics_of_a_probe",
    "test_distributed": "loss_and_gradients_equal_the_whole_batch[4- "
                        "loss_and_gradients_equal_the_whole_batch[2-float64 "
                        "loss_and_gradients_equal_the_whole_batch[1-float32",
    "test_shipped": "recorded_accuracy",
    "test_classifier": "still_clip_is_its_picture_in_vit_base",
    "test_watch": "a_million_rows",
}

MARKERS = {
    "slow": "takes long and seldom fails alone: `make test-slow`",
    "floats": "compares what floating-point arithmetic gives: threads, kernels and versions show",
    "clocks": "waits, measures or kills at a moment: the speed and the load of the machine show",
}  # `pytest -m "floats or clocks" tests` runs both, tests/tools/variations.py in several ways


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def _rank(item: pytest.Item) -> int:
    return next((i for i, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))


def _is_slow(item: pytest.Item) -> bool:
    name = item.name.removeprefix("test_")
    return name.startswith(tuple(SLOW.get(item.path.stem, "").split()) or ("\0",))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _is_slow(item):
            item.add_marker(pytest.mark.slow)
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
