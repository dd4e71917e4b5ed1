"""What a terminal shows of a run: a bar that stays, and what its width has room for."""

import io
import re
import sys

import pytest
from rich.console import Console

from train.shown import progress

RECORD = {"loss": 0.2312, "accuracy": 0.9344, "grad_norm": 1.5, "step": 3200}
RECORD |= {"examples_per_second": 51234.5, "seconds": 9.0}
EVALUATED = {"test_loss": 0.2471, "test_accuracy": 0.9266}


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_bar_stays_after_an_evaluation(width, monkeypatch):
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True)
    monkeypatch.setattr(progress, "Console", lambda file: console)
    with progress.bar(40000) as show:
        show(3000, RECORD)
        show(3200, RECORD | EVALUATED)
    lines = re.sub(r"\x1b\[[?\d;]*[a-zA-Z]", "", shown.getvalue()).splitlines()
    last = [line.rstrip() for line in lines if "left" in line][-1]
    assert len(last) <= width
    assert last.count("━") + last.count("╸") + last.count("╺") == min(24, width // 6)
    assert last.startswith("3,200/40,000 ") and last.endswith(" left")
    for name, least in (("loss 0.2312", 0), ("test_loss", 80), ("examples/s", 140)):
        assert (name in last) == (width >= least)


def test_a_line_has_the_loss_first_and_what_was_evaluated_next():
    line = progress.describe({"accuracy": 0.9344, **RECORD, **EVALUATED})
    assert line == (
        "loss 0.2312  test_loss 0.2471  test_accuracy 0.9266  accuracy 0.9344  "
        "51,234 examples/s"
    )
    assert progress.describe({"loss": 1.0}, 0) == "loss 1"  # something, always


def test_all_steps_that_were_skipped_so_far_are_shown(capsys):
    with progress.bar(60) as show:
        for step in range(1, 61):
            show(step, RECORD | ({"skipped": 2} if step in (5, 8) else {}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 20 and "skipped" not in lines[0]
    assert "loss 0.2312  skipped 2  accuracy" in lines[1]  # of a line before
    assert "skipped 4" in lines[-1]


def test_nothing_is_shown_where_nothing_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with progress.bar(10, enabled=False) as show:
        show(1, RECORD)
    assert not sys.stdout.getvalue()
