import math
import time

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import __main__ as command
from benchmarks import measure, report, setting, talk
from benchmarks.families import FAMILIES, sinusoid
from benchmarks.peers import flax, purezoo
from benchmarks.report import Machine, Result
from benchmarks.setting import Setting
from tests.conftest import quick
from zoo import attention

MLP, CPU = FAMILIES["mlp"], Setting()


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["resnet"], "unknown family 'resnet'; did you mean 'resnet20'?"),
        (["mlp", "--peers", "touch"], "unknown peer 'touch'; did you mean 'torch'?"),
        (["mlp", "--rounds", "0"], "expected --rounds of 1 to 1000, found 0"),
        (["mlp", "--seconds", "nan"], "expected --seconds of 0.01 to 1000, found nan"),
        (
            ["mlp", "--device", "cuda"],
            "unknown device 'cuda'; expected one of: cpu, gpu",
        ),
        (["--precision", "tf32"], "expected --device gpu for --precision tf32, found"),
        (["linear", "--precision", "bfloat16"], "expected a family with bfloat16"),
        (["--peers", "keras", "--device", "gpu"], "unknown peer 'keras'"),
        (["--batch", "-1"], "expected --batch of 1 or more, found -1"),
        (["mlp", "--out", "absent/R.md"], "expected a folder for --out, found absent"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, argv, expected):
    assert command.main(argv) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"benchmarks: {expected}") and error.count("\n") == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_counted_products_are_the_kernels_of_the_network(name):
    family = FAMILIES[name]
    x = jax.ShapeDtypeStruct((2, *family.shape), "float32")
    task = purezoo.MODELS[name]()
    params, _ = jax.eval_shape(task.init, jax.random.key(0), {"x": x})
    kernels = []
    for path, leaf in flatten_dict(params, sep="/").items():
        if path.endswith(("kernel", "recurrent")):
            stacked = family.attention and "encoder/" in path  # layers
            count = len(leaf) if stacked else 1
            kernels += [leaf.size / count] * count
    assert sorted(kernels) == sorted(a * b for _, a, b in family.products)
    if not family.passes:
        products = family.products + family.attention
        assert family.flops == 6 * sum(math.prod(p) for p in products)


def test_a_gan_judges_real_and_generated_images():
    family = FAMILIES["gan"]
    made, judged = (sum(map(math.prod, family.work[times])) for times in (3, 7))
    # dense, 4x4 transposed from 7x7 and 14x14; 4x4 to 14x14 and to 7x7, dense
    assert made == 64 * 6272 + 16 * (7 * 7 * 128 * 64 + 14 * 14 * 64)
    assert judged == 16 * (14 * 14 * 64 + 7 * 7 * 64 * 128) + 6272
    assert family.flops == 2 * (3 * made + 7 * judged)
    assert "3 x 2 x (1x64x6272 + " in report.section(
        family, [], [], [], [1.0], Machine(1.0)
    )


@pytest.mark.contract
@pytest.mark.parametrize("name", ["lstm", "gru", "transformer"])
def test_flax_begins_where_we_do(name):
    rng, key, family = np.random.default_rng(0), jax.random.key(0), FAMILIES[name]
    batch = {k: jax.numpy.asarray(a) for k, a in family._replace(rows=2).data().items()}
    task, model = purezoo.MODELS[name](), flax.MODELS[name]()
    shapes, _ = jax.eval_shape(task.init, key, batch)
    params = jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype("f"), shapes)
    if name == "gru":  # Linen has one bias for two of ours
        params["rnn"]["forward_0"]["recurrent_bias"][:2] = 0
    first = jax.eval_shape(lambda: model.init(key, batch["x"], False))["params"]
    theirs = flax.copied(first, purezoo.by_path(params))
    outputs = model.apply({"params": theirs}, batch["x"], False)
    loss, _ = task.loss(params, {}, batch, key, train=False)
    values = flax.LOSSES[family.loss](outputs, batch["y"])
    assert values.mean() == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.contract
@pytest.mark.parametrize("name", quick(["vae", "gan"], "vae"))
def test_flax_draws_and_moves_as_we_do(name):
    family = FAMILIES[name]._replace(rows=8, batch=4)
    arrays = family.data() | purezoo.weights(family, CPU)
    ours, theirs = (p.prepare(family, arrays, "", CPU) for p in (purezoo, flax))
    assert ours.parameters == theirs.parameters
    losses = [[peer.step(i) for i in range(3)] for peer in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for peer in (ours, theirs):
        peer.run(2)  # noise of its own


def test_data_that_is_generated():
    x = FAMILIES["vae"].data()["x"]
    assert x.shape == (4096, 784) and set(x[:9].flat) == {0, 1}
    data = FAMILIES["gan"].data()
    assert list(data) == ["x"] and data["x"].shape == (4096, 28, 28, 1)
    assert -1 <= data["x"].min() < data["x"].max() <= 1


def test_the_positions_are_those_of_the_zoo():
    ours = attention.sinusoid(jax.numpy.arange(64), 128)
    np.testing.assert_allclose(sinusoid(), ours, atol=1e-5)


def test_a_turn_is_whole_epochs():
    assert MLP.epoch == 32
    assert [MLP.rounded(n) for n in (0.1, 7.4, 32, 33, 100)] == [1, 7, 32, 32, 96]


def test_ratios_are_those_within_a_round():
    assert report.ratios([4, 9], [2, 3]) == [2, 3]
    assert report.difference(1.01, 1.0) == pytest.approx(0.01)
    assert report.difference(1.0, None) is None


def results():
    return [
        Result("purezoo", [400.0, 100.0, 300.0], "", 5, 2.0, 7, 300.4, 3.21, 1.0),
        Result("torch", [100.0, 50.0, 300.0], "", 5, 2.0, 7, 200.0, 2.0),
        Result("flax", [200.0, 200.0, 200.0], "", 5, 2.1, 7, 200.0, 2.0, 1.0),
        Result("keras", [], "not installed"),
    ]


def test_the_rows():
    lines = report.rows(MLP, results(), Machine(MLP.flops * 600.0))
    assert [line["peer"] for line in lines] == ["purezoo", "torch", "flax"]
    assert list(lines[1].values())[1:7] == [
        "100",
        "2.00",
        "1.00-4.00",
        "200",
        "2.0",
        "-",
    ]
    assert lines[0]["of a product"] == "50.0%"
    notes = report.remarks(results(), lines)
    assert notes == ["keras: not installed", "NOT COMPARABLE, the losses differ: flax"]
    fewer = [
        {**line, "parameters": "4"} if line["peer"] == "flax" else line
        for line in lines
    ]
    assert "differ from that of purezoo: flax" in report.remarks(results(), fewer)[-1]
    busy = [result._replace(others=0.3) for result in results()[:1]]
    assert "up to 30% of the cores in turns of purezoo" in report.remarks(busy, [])[0]
    without = report.rows(MLP, results()[:1], Machine(1.0))
    assert without[0]["from torch"] == "not compared"


def test_a_loss_that_is_not_a_number_compares_with_nothing():
    found = [*results()[:2], results()[2]._replace(loss=math.nan)]
    assert "NOT COMPARABLE" in report.rows(MLP, found, Machine(1.0))[2]["from torch"]


def test_the_written_table():
    lines = report.rows(MLP, results(), Machine(1e9))
    text = report.section(MLP, results(), lines, ["a note"], [1e9, 2e9], Machine(1e9))
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 5 and {line.count("|") for line in table} == {13}
    assert "**a note.**" in text and "2 GFLOP/s (1 to 2)" in text
    assert report.markdown([]) == ""


def test_no_path_is_written():
    command = "python -m benchmarks mlp --out /some/where/R.md"
    assert talk.without_paths(command) == "python -m benchmarks mlp --out R.md"
    assert "examples/s" in talk.without_paths("examples/s")


def test_a_worker_that_fails_says_why_and_when(tmp_path):
    began = time.perf_counter()
    words = "purezoo", "mlp", tmp_path / "absent.npz", CPU, tmp_path
    with talk.Worker(*words) as worker:
        with pytest.raises(talk.Failed, match="FileNotFoundError.*absent.npz"):
            worker.answer()
        assert 0 < worker.seconds() <= time.perf_counter() - began


class Fake:
    """A worker that answers at once; "torch-compile" fails when it has to train."""

    asked: list[tuple] = []

    def __init__(self, peer, name, file, setting, cache):
        self.peer, self.said = peer, []

    def send(self, *command):
        self.said.append(command[0])
        self.asked.append((self.peer, command[0]))

    def ask(self, *command):
        self.send(*command)
        return self.answer()

    def answer(self):
        if self.peer in ("init", "product"):
            return {"device": "NVIDIA H100 80GB HBM3", "rate": 4e14}
        command = self.said.pop()
        if self.peer.startswith("fit:"):
            assert command == 1000
            return {}
        if self.peer == "torch-compile" and command == "prepare":
            raise talk.Failed("RuntimeError: no kernel")
        answers = {
            "first": {"first": 2.0},
            "prepare": {"parameters": 5, "loss": 2.0, "steps": 7},
            "go": {"rate": 1e6, "others": 0.0},
            "end": {"peak_mib": 3.0},
        }
        return answers[command]

    def seconds(self):
        return 1.5

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_a_peer_that_fails_is_a_note_and_the_others_go_on(
    monkeypatch, tmp_path, device
):
    monkeypatch.setattr(measure, "Worker", Fake)
    monkeypatch.setattr(measure, "find_spec", lambda name: True)
    monkeypatch.setattr(Fake, "asked", [])
    out = tmp_path / "R.md"
    argv = ["mlp", "--device", device, "--rounds", "2", "--out", str(out)]
    peers = ["--peers", "torch", "torch-nchw", "torch-compile"]
    assert command.main([*argv, *peers, "--batch", "1024"]) == 0
    text = out.read_text()
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in table[2:]] == ["purezoo", "torch"]
    assert "**torch-compile: failed: RuntimeError: no kernel.**" in text
    assert [row.split("|")[8].strip() for row in table[2:]] == ["1.5", "1.5"]
    assert "Of fit: 1,000." in text
    assert "batch 1024" in text and ("MFU" in table[0]) == (device == "gpu")
    begun = [peer for peer, said in Fake.asked if said == "first"][:3]
    compiled_first = ["torch-compile", "purezoo", "torch"]
    assert begun == (compiled_first if device == "gpu" else sorted(begun))
    if device == "gpu":
        assert f"{1e6 * MLP.flops / 67e12:.2%}" in table[2]
        assert "NVIDIA H100" in text and "67 TFLOP/s" in text


def test_a_whole_training_is_of_as_many_steps_as_one_waits_for():
    assert [measure.fitted(rate) for rate in (100, 17, 16, 3, 0.1)] == [
        1000,
        1000,
        900,
        100,
        100,
    ]


def test_a_whole_training_is_what_fit_does():
    family = MLP._replace(rows=256, batch=64)
    done = purezoo.fit(family, family.data(), CPU, 40)
    assert done.ended == "finished" and int(done.state.step) == 40
    assert done.records[-1]["loss"] < done.records[0]["loss"]


def test_the_peak_on_paper():
    assert setting.peak("NVIDIA H200", "bfloat16") == 989e12
    assert setting.peak("NVIDIA H100 PCIe", "tf32") is None
    assert setting.peak("cpu", "float32") is None


def test_another_batch_size_has_rows_enough():
    for name, rows in (("linear", 1024), ("mlp", 32 * 1024)):
        family = Setting(batch=1024).family(name)
        assert (family.batch, family.rows) == (1024, rows)
        assert "1024" in family.about and family.flops == FAMILIES[name].flops
    assert Setting(batch=8).family("gru").epoch == 512
    assert setting.read(Setting("gpu", "tf32", 3, 8).text()).batch == 8


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "linear"])
def test_mixed_precision_reaches_the_products(name):
    family = FAMILIES[name]._replace(rows=2, batch=2)
    batch = {
        k: jax.ShapeDtypeStruct(a.shape, a.dtype) for k, a in family.data().items()
    }
    task = purezoo.MODELS[name](jax.numpy.bfloat16)
    params, state = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}

    def loss(params, state, batch):
        return task.loss(params, state, batch, jax.random.key(0), train=True)[0]

    program = jax.jit(loss).lower(params, state, batch).as_text()
    products = [
        line
        for line in program.splitlines()
        if "stablehlo.dot_general" in line or "stablehlo.convolution" in line
    ]
    assert products and all("bf16" in line for line in products)


def test_a_full_batch_is_all_rows_at_every_step():
    family = FAMILIES["linear"]._replace(rows=20, batch=20)
    rows = family.data()
    ours = purezoo.prepare(family, rows | purezoo.weights(family, CPU), "", CPU)
    kernel, bias = np.zeros(10), 0.0
    for i in range(4):
        error = rows["x"] @ kernel + bias - rows["y"]
        assert ours.step(i) == pytest.approx(np.mean(error**2), rel=1e-4)
        kernel -= family.rate * 2 * rows["x"].T @ error / 20
        bias -= family.rate * 2 * error.mean()
