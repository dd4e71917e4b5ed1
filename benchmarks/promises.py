"""What is promised, how it is tested, and the figure: a table in a page.

    python -m benchmarks.promises [--short] [--read JUNIT.xml ...] [--page README.md]

Runs the tests of PROMISES, all of them or those that are not `long`; or reads what ran
before (`pytest --junitxml=JUNIT.xml -o junit_family=xunit1`). A test's figure is
what it records as such (`record_property("figure", ...)`), else how many cases there
are. Where one fails nothing is written, and the exit status is 1.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from train.cli.results import put
from zoo.base import UsageError

BEGIN, END = "<!-- promises -->", "<!-- end of promises -->"
ROOT = Path(__file__).parent.parent
HEADS = ("what we promise", "how it is tested", "figure")
# a promise, and the tests that hold it: file, then name
PROMISES = {
    "A run that is killed, or interrupted, goes on with `--resume` and ends with the "
    "same bits": (
        "test_kills test_killed_again_and_again_it_ends_bit_equal",
        "test_cli test_killed_and_interrupted_runs_end_bit_equal_to_an_"
        "uninterrupted_one",
        "test_cli test_the_main_job_killed_halfway_ends_bit_equal",
    ),
    "Every recipe, resumed in a fresh process, ends with the same bits": (
        "test_contract_fit test_resumed_in_a_fresh_process_is_bit_equal",
    ),
    "With `--restarts`, a kill a minute costs a tenth of the time at most": (
        "test_kills test_a_kill_a_minute_costs_little",
    ),
    "A saved state that is damaged is never believed: the one before it is read, with "
    "a warning": ("test_damage test_many_damages_are_seen",),
    "A state is on the disk before it has its name, and whole after a kill at any "
    "call": (
        "test_damage test_a_state_is_on_the_disk_before_it_has_its_name",
        "test_damage test_a_kill_at_any_call_leaves_a_whole_state",
    ),
    "Two devices that share a batch train as one": (
        "test_contract_fit test_two_devices_share_a_batch_and_equal_one",
    ),
    "Losses do not depend on the number of devices, and a state that some saved others "
    "read to the bit": (
        "test_mesh test_losses_do_not_depend_on_the_number_of_devices",
        "test_mesh test_what_some_devices_saved_others_read_to_the_bit",
    ),
    "Two processes train as one; a kill or SIGTERM of one changes nothing that all end "
    "with": (
        "test_hosts test_two_processes_train_as_one",
        "test_hosts test_a_signal_and_a_kill_change_nothing",
        "test_hosts test_processes_that_are_started_again_find_each_other",
    ),
    "A coordinator that is missing, a busy port and wrong numbers of processes are a "
    "sentence in all": (
        "test_hosts test_a_missing_coordinator_is_a_sentence",
        "test_hosts test_a_busy_port_is_a_sentence",
        "test_hosts test_a_mistake_ends_all_processes_with_a_sentence",
    ),
    "A state that is not finite is never saved": (
        "test_resume test_a_state_that_is_not_finite_is_never_saved",
    ),
    "A step that is not finite changes nothing and is counted; too many end a training "
    "with a sentence of what was not finite, and the last line's state": (
        "test_guard test_all_of_a_state_stays_but_for_its_number",
        "test_guard test_a_row_without_a_finite_loss_is_left_out_batch_by_batch",
        "test_guard test_so_many_are_too_many",
        "test_guard test_what_is_resumed_among_skipped_steps_is_bit_equal",
    ),
    "A full disk is one warning; training goes on, and what was reached is not lost": (
        "test_checkpoint test_a_disk_that_stays_full_is_one_warning",
        "test_resume test_a_full_disk_at_the_end_loses_nothing_to_python",
    ),
    "No file of yours is deleted or overwritten": (
        "test_checkpoint test_checkpoints_leave_other_folders_alone",
        "test_cli test_a_run_is_never_overwritten",
    ),
    "Two runs never share a folder: the second is refused within a second, and told by "
    "whom": (
        "test_damage test_a_second_run_is_told_who_has_the_directory",
        "test_run test_a_directory_that_another_process_holds_is_left_alone",
    ),
    "Looking at a run that trains touches nothing of it": (
        "test_run test_reading_beside_a_run_that_trains",
        "test_checkpoint test_a_reader_touches_nothing",
    ),
    "Rows and arguments that cannot be right are told in a sentence before anything is "
    "compiled": (
        "test_mistakes test_rows_that_cannot_be_right_are_told",
        "test_mistakes test_calls_that_cannot_be_right_are_told",
        "test_mistakes test_a_config_that_cannot_be_right_is_told",
    ),
    "A file that a stranger made runs no code, fills no memory and ends in a result or "
    "a sentence": ("test_strangers test_500_damaged_files_run_no_code",),
    "A process may save, load, step and fit for long: nothing grows": (
        "test_soak test_nothing_grows",
    ),
}


class Case(NamedTuple):
    """A test that ran, with one of its parameters."""

    test: str  # "test_x test_y", as in PROMISES
    figure: str  # "" where it records none
    outcome: str  # "passed", "failed" or "skipped"
    seconds: float


def run(short: bool) -> list[Case]:
    """The tests, run. Raises UsageError where pytest itself fails, as for no test."""
    tests = [each.split() for some in PROMISES.values() for each in some]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.xml"
        command = [sys.executable, "-m", "pytest", "-m", "not long" if short else ""]
        command += [f"--junitxml={out}", "-o", "junit_family=xunit1"]  # has properties
        command += [f"tests/{file}.py::{name}" for file, name in tests]
        status = subprocess.run(command, cwd=ROOT).returncode
        if status > 1:
            raise UsageError(f"pytest ended with the status {status}")
        return cases(out.read_text(encoding="utf-8"))


def cases(xml: str) -> list[Case]:
    """What pytest says of tests (JUnit's XML)."""
    found = []
    for one in ElementTree.fromstring(xml).iter("testcase"):
        figures = [p for p in one.iter("property") if p.get("name") == "figure"]
        kinds = {child.tag for child in one}
        failed, skipped = kinds & {"failure", "error"}, "skipped" in kinds
        file = one.get("classname", "").rpartition(".")[2]
        found.append(
            Case(
                f"{file} {one.get('name', '').partition('[')[0]}",
                "; ".join(figure.get("value", "") for figure in figures),
                "failed" if failed else "skipped" if skipped else "passed",
                float(one.get("time", 0)),
            )
        )
    return found


def table(found: Sequence[Case]) -> str:
    """A row for each promise. Raises UsageError where a test failed or did not run."""
    held = {test for tests in PROMISES.values() for test in tests}
    found = [case for case in found if case.test in held]  # a whole suite may be read
    if bad := sorted({case.test for case in found if case.outcome == "failed"}):
        raise UsageError(f"expected tests that pass, found {', '.join(bad)} failing")
    lines = [f"| {' | '.join(HEADS)} |", "|---|---|---|"]
    for promise, tests in PROMISES.items():
        ran = [c for c in found if c.test in tests and c.outcome == "passed"]
        if absent := sorted({*tests} - {case.test for case in ran}):
            raise UsageError(f"expected {', '.join(absent)} to run, found it skipped")
        figures = [*dict.fromkeys(case.figure for case in ran if case.figure)]
        figure = "; ".join(figures) or f"{len(ran)} of {len(ran)} cases pass"
        named = [f"`tests/{file}.py`: `{name}`" for file, name in map(str.split, tests)]
        seconds = sum(case.seconds for case in ran)
        lines.append(f"| {promise} | {', '.join(named)} | {figure}, {seconds:,.0f} s |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the tests and write, or print, their table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="without the long tests")
    parser.add_argument("--read", type=Path, nargs="+", help="what pytest wrote before")
    parser.add_argument("--page", type=Path, help=f"to write the table to, at {BEGIN}")
    options = parser.parse_args(argv)
    try:
        read = [cases(path.read_text(encoding="utf-8")) for path in options.read or ()]
        text = table(sum(read, []) if read else run(options.short))
        if options.page is None:
            print(text)
        else:
            put(options.page, BEGIN, END, text)
    except UsageError as error:
        print(f"promises: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
