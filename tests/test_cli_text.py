"""`zoo sample` and `zoo translate` on runs that a user made of files of their own."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from train.cli.main import main

SENTENCE = "a rose is a rose is a rose.\n"


pytestmark = pytest.mark.contract


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A model of one sentence, a Transformer of it, one of pairs; sources deleted."""
    folder = tmp_path_factory.mktemp("runs")
    kept = os.getcwd()
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        Path("rose.txt").write_text(SENTENCE * 60)
        pairs = "".join(f"{i:03b}\t{i:03b}!\n" for i in range(200))
        Path("my.tsv").write_text(pairs)
        text = "--data rose.txt --length 16 --batch-size 16"
        for command in (
            f"train char_lstm {text} --features 32 --width 16 --steps 150 --out lstm",
            f"train char_transformer {text} --width 16 --heads 2 --layers 1 --steps 3 "
            "--out transformer",
            "train seq2seq_lstm --data my.tsv --features 16 --width 8 --steps 3 "
            "--batch-size 16 --out pairs",
        ):
            assert main(command.split()) == 0
        os.remove("rose.txt")
        os.remove("my.tsv")
        yield folder
    finally:
        os.chdir(kept)


@pytest.fixture
def zoo(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    capsys.readouterr()

    def run(*argv):
        status = main(list(argv))
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_run_measures_and_shows_what_it_writes(runs):
    result = json.loads((runs / "lstm" / "result.json").read_text())
    scores = result["metrics"]
    assert scores["loss"] < 0.5 and scores["accuracy"] > 0.8
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))
    assert len((runs / "lstm" / "sample.txt").read_text()) == 16 + 400 + 1
    pairs = json.loads((runs / "pairs" / "result.json").read_text())["metrics"]
    assert {"per", "wer", "loss", "accuracy"} <= set(pairs)
    assert "source\tfound\texpected" in (runs / "pairs" / "samples.tsv").read_text()


def test_sample_goes_on_from_a_prompt(zoo):
    flags = ("--length", "20", "--temperature", "0")
    status, out, _ = zoo("sample", "lstm", "--prompt", "a rose", *flags)
    assert status == 0 and out == (SENTENCE * 2)[:26] + "\n"
    a, b, c = (
        zoo("sample", "lstm", "--prompt", "a", "--seed", seed)[1] for seed in "001"
    )
    assert a == b != c and len(a) == 302
    # a Transformer writes on past its context of 16
    status, out, _ = zoo("sample", "transformer", "--prompt", "a rose is a rose")
    assert status == 0 and len(out) == 16 + 300 + 1


def test_translate_prints_a_line_for_each_and_draws_the_attention(zoo):
    status, out, err = zoo("translate", "pairs", "101", "0")
    assert status == 0 and "attention" in err
    lines = [line.split("\t") for line in out.splitlines()]
    assert [line[0] for line in lines] == ["101", "0"]
    assert all(line[2].endswith(" nats") for line in lines)
    for word in ("101", "0"):
        assert Path(f"pairs/attention-{word}.png").stat().st_size > 2000


@pytest.mark.parametrize(
    "command, message",
    [
        ("sample lstm --prompt ROSE", "'E', 'O', 'R', 'S'"),
        ("sample lstm --prompt=", "at least one character"),
        ("sample lstm --prompt a --top-p 2", "top_p in (0, 1], found 2"),
        ("sample lstm --prompt a --top-k 99", "top_k in 1..10"),
        ("sample lstm --prompt a --length 0", "length of at least 1"),
        ("sample lstm --prompt a --temperature -1", "temperature"),
        (
            "sample transformer --prompt aaaaaaaaaaaaaaaaa",
            "at most 16 characters, the model's context, found 17",
        ),
        ("sample pairs", "draws or writes, found seq2seq_lstm"),
        ("sample nowhere", "no run in nowhere"),
        ("translate lstm rose", "translates, found char_lstm"),
        ("translate pairs", "a word or a sentence"),
        ("translate pairs 12", "found '2' in '12'"),
        ("translate pairs 1 --beams 0", "beams between 1"),
        ("predict lstm rose.npz", "zoo sample"),
        ("train char_lstm --data nowhere.txt --out x", "no file at nowhere.txt"),
        ("train seq2seq_lstm --data nowhere.tsv --out x", "no file at nowhere.tsv"),
        ("train lstm --data iris --out x", "wants sequences [T, D]"),
    ],
)
def test_mistakes_are_one_sentence(command, message, zoo):
    status, out, err = zoo(*command.split())
    assert status == 2 and message in err, err
    assert err.count("\n") == 1 and not out
