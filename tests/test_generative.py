"""Runs of generative models: their optimizers, their judge, their pictures."""

import json
import signal
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.linalg import sqrtm

from train import data as sets
from train import loop, optim
from train.cli.main import main
from train.recipes import RECIPES, latent, prepare
from train.report import judge, metrics, plot
from zoo import vae
from zoo.base import UsageError

RNG = np.random.default_rng(0)


def test_frechet_is_that_of_two_normals():
    a = RNG.normal(size=(400, 5)) @ RNG.normal(size=(5, 5)) + 1
    b = RNG.normal(size=(300, 5))
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    expected = np.square(a.mean(0) - b.mean(0)).sum()
    expected += np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert metrics.frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert metrics.frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert metrics.frechet(a, a + 3) == pytest.approx(9 * 5)
    with pytest.raises(UsageError, match="features"):
        metrics.frechet(a, b[:, :2])


def test_between_maps_the_training_range_and_keeps_the_units():
    data = sets.load("digits")
    rows = sets.between(data, -1, 1)
    assert rows.train["x"].min() == -1 and rows.train["x"].max() == 1
    assert rows.test["x"].min() >= -1 and rows.test["x"].max() <= 1
    scale, mean = (np.float32(v) for v in (rows.schema.scale, rows.schema.mean))
    pixels = rows.train["x"] * scale + mean
    np.testing.assert_allclose(pixels, pixels.round(), atol=1e-4)
    assert pixels.max() == pytest.approx(16)
    again = sets.between(rows, -1, 1)
    np.testing.assert_allclose(again.train["x"], rows.train["x"], atol=1e-6)


@pytest.mark.parametrize("name", ["vae", "gan", "semi_supervised_gan", "autoencoder"])
def test_images_that_are_all_alike_are_refused(name, tmp_path):
    x, y = np.full((60, 8, 8), 7, np.uint8), np.arange(60) % 2
    np.savez(tmp_path / "grey.npz", x_train=x, y_train=y)
    with pytest.raises(UsageError, match="that differ, found one value 7"):
        prepare(RECIPES[name], data=str(tmp_path / "grey.npz"))


PARAMS = {"generator": jnp.ones(3), "discriminator": jnp.ones(2)}


def test_each_player_has_its_own_optimizer():
    step = optim.players(generator=optax.sgd(1.0), discriminator=optax.sgd(0.1))
    updates, _ = step.update(PARAMS, step.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["generator"], -1.0)
    np.testing.assert_allclose(updates["discriminator"], -0.1)


def test_between_its_updates_a_player_stands_still():
    inner = optax.adam(0.1)
    often, seldom = inner, optim.every(inner, 3)
    kept, state = often.init(PARAMS), seldom.init(PARAMS)
    gradients = [jax.tree.map(lambda p, i=i: p * (i + 1), PARAMS) for i in range(9)]
    for i, gradient in enumerate(gradients):
        update, state = seldom.update(gradient, state, PARAMS)
        if (i + 1) % 3:
            assert not any(np.any(leaf) for leaf in jax.tree.leaves(update))
        else:
            expected, kept = often.update(gradient, kept, PARAMS)
            jax.tree.map(np.testing.assert_allclose, update, expected)


def test_only_the_critic_moves_at_its_own_steps():
    adam = optim.optimizer("adam", 0.01)
    step = optim.adversaries(adam, critic_steps=2)
    update, state = step.update(PARAMS, step.init(PARAMS), PARAMS)
    assert not np.any(update["generator"]) and np.all(update["discriminator"])
    update, state = step.update(PARAMS, state, PARAMS)
    assert np.all(update["generator"]) and np.all(update["discriminator"])
    with pytest.raises(UsageError, match="1 or more steps"):
        optim.adversaries(adam, critic_steps=0)


@pytest.fixture(scope="module")
def digits():
    data = sets.between(sets.load("digits"), 0, 1)
    return data, judge.train(data)


@pytest.mark.contract
def test_the_judge_knows_real_images_from_noise(digits):
    data, one = digits
    assert one.accuracy > 0.95
    test = data.test["x"]
    real, failure, _ = judge.verdict(one, data, test, data.test["y"])
    assert real["frechet"] == pytest.approx(0, abs=1e-3)
    assert real["agreement"] == pytest.approx(one.accuracy)
    assert 0 < real["frechet_real"] < 0.2 * real["frechet_noise"]
    assert real["rarest"] > 0.05 and real["confident"] > 0.8
    assert failure is None
    noise = RNG.uniform(size=test.shape).astype(np.float32)
    assert (
        judge.verdict(one, data, noise).scores["frechet"] > 0.5 * real["frechet_noise"]
    )


@pytest.mark.contract
def test_images_of_one_class_are_a_failure(digits):
    data, one = digits
    threes = data.train["x"][data.train["y"] == 3][:100]
    scores, failure, _ = judge.verdict(one, data, threes)
    assert "collapsed" in failure and "'3'" in failure
    assert scores["rarest"] == 0


class Normals:
    """A judge whose features are the pixels themselves."""

    accuracy = 1.0

    def look(self, x):
        return x.reshape(len(x), -1), np.tile(np.eye(2), (len(x), 1))[: len(x)]


@pytest.mark.parametrize("images, test", [(3000, 200), (120, 900)])
def test_the_scale_of_the_distance_is_of_as_many_images(images, test):
    def part(n):
        x = np.random.default_rng(n).normal(size=(n, 8, 8, 1)).astype(np.float32)
        return {"x": x, "y": np.arange(n) % 2}

    schema = sets.Schema("normals", (8, 8, 1), ("0", "1"), (0.0,), (1.0,))
    data = sets.Data(schema, part(1000), part(test))
    scores = judge.verdict(Normals(), data, part(images)["x"]).scores
    # between samples of one normal only their sizes tell; 3,000 for 200 is 40 % less
    assert scores["frechet"] == pytest.approx(scores["frechet_real"], rel=0.1)


def interrupted(monkeypatch):
    """Ctrl-C at the first line that the judge's training logs."""
    fit = judge.loop.fit

    def stopped(*args, **options):
        def stop(state, record):
            if record is not None:
                signal.raise_signal(signal.SIGINT)

        return fit(*args, callbacks=(stop,), **options)

    monkeypatch.setattr(judge, "loop", SimpleNamespace(fit=stopped))


@pytest.mark.contract
def test_a_judge_that_is_interrupted_judges_nothing(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("train.cli.main._cache", lambda: None)
    command = f"train gan --data digits --latent 4 --steps 1 --out {tmp_path}/run"
    result = tmp_path / "run" / "result.json"
    with monkeypatch.context() as patch:
        interrupted(patch)
        with pytest.raises(KeyboardInterrupt):
            judge.train(digits[0])
        assert main(command.split()) == 130 and not result.exists()
    assert main([*command.split(), "--resume"]) == 1  # one step taught nothing
    assert json.loads(result.read_text())["metrics"]["judge_accuracy"] > 0.9


@pytest.mark.contract
def test_the_bound_of_a_row_is_the_same_in_any_batch():
    x = RNG.integers(0, 2, (11, 4, 4, 1)).astype(np.float32)
    model = vae.dense((4, 4, 1), 2, (8,))
    variables = {"params": vae.task(model).init(jax.random.key(0), {"x": x})[0]}
    whole = latent.bounds(model, variables, x, samples=20)
    for size in (1, 4):
        some = latent.bounds(model, variables, x, samples=20, batch_size=size)
        np.testing.assert_allclose(some, whole, rtol=1e-5)  # sums in another order
    key = jax.random.fold_in(jax.random.key(0), 7)
    alone = vae.bound(model, variables, x[7:8], key, 20)
    np.testing.assert_allclose(whole[7:8], alone, rtol=1e-5)
    assert (latent.bounds(model, variables, x, samples=20, seed=1) != whole).any()


@pytest.mark.contract
def test_elbo_and_bound_are_of_the_same_images():
    x = RNG.integers(0, 2, (1400, 4, 4, 1)).astype(np.float32)
    x[1000:] = 1  # unlike the first thousand
    schema = sets.Schema("bits", (4, 4, 1), (), (0.0,), (1.0,))
    rows = {"x": x, "y": np.zeros(len(x), np.float32)}
    recipe = prepare(
        RECIPES["vae"], data=sets.Data(schema, rows, rows), latent=1, widths=(2,)
    )
    state = loop.start(recipe.task, recipe.optimizer, recipe.source())[0]
    scores = recipe.report.measure(loop.trained(state), recipe.parts).scores
    model, variables = recipe.network, {"params": state.params}
    mean = np.mean(latent.bounds(model, variables, recipe.parts.test["x"]))
    assert scores["iwae_500"] == pytest.approx(mean, rel=1e-6)


def test_the_judge_wants_images_of_classes():
    with pytest.raises(UsageError, match="images"):
        judge.train(sets.load("wine"))


def test_tiles_are_pixels_side_by_side():
    x = np.linspace(0, 1, 5 * 4 * 4).reshape(5, 4, 4, 1)
    figure = plot.tiles(x, columns=3, titles=["one", "two"])
    drawn = figure.axes[0].images[0].get_array()
    assert drawn.shape == (2 * 5, 3 * 5)
    np.testing.assert_allclose(drawn[1:5, 1:5], x[0, ..., 0])
    np.testing.assert_allclose(drawn[6:10, 6:10], x[4, ..., 0])
    assert (drawn[5:, 10:] == 1).all()
    for wrong, match in (
        (x[..., 0], r"found shape \(5, 4, 4\)"),
        (x + 1, "found values 1 to 2"),
        (x * np.nan, "found values nan"),
    ):
        with pytest.raises(UsageError, match=match):
            plot.tiles(wrong)


# Whole runs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A conditional VAE and a recurrent one, trained a little."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        flags = "--data digits --latent 4 --widths 64 --steps 400"
        command = f"train conditional_vae {flags} --out {folder}/images"
        assert main(command.split()) == 0
        flags = "--length 8 --latent 4 --features 16 --steps 10 --batch-size 32"
        command = f"train recurrent_vae {flags} --out {folder}/texts"
        assert main(command.split()) == 1  # it does not use its latent space yet
    return folder


@pytest.fixture
def zoo(runs, capsys, monkeypatch):
    monkeypatch.chdir(runs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(runs / "cache"))
    capsys.readouterr()

    def run(command):
        status = main(command.split())
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


@pytest.mark.contract
def test_a_run_leaves_pictures_and_scores(runs):
    folder = runs / "images"
    assert (folder / "samples.png").exists() and (folder / "progress.png").exists()
    assert len(list((folder / "samples").glob("*.png"))) == 20
    scores = json.loads((folder / "result.json").read_text())["metrics"]
    assert scores["iwae_500"] > scores["elbo"]
    assert scores["agreement"] > 0.25 and scores["judge_accuracy"] > 0.9


@pytest.mark.contract
def test_a_latent_space_that_is_not_used_is_a_failure(runs):
    result = json.loads((runs / "texts" / "result.json").read_text())
    assert "collapsed to the prior" in result["failure"]
    assert result["metrics"]["kl"] < 0.1
    assert json.loads((runs / "images" / "result.json").read_text())["failure"] is None


@pytest.mark.contract
def test_sample_draws_the_same_for_the_same_seed(zoo, runs):
    status, said, _ = zoo("sample images --n 20 --seed 3 --label 7")
    assert status == 0 and "sample-3-7.png" in said
    first = (runs / "images" / "sample-3-7.png").read_bytes()
    zoo("sample images --n 20 --seed 3 --label 7 --out a.png")
    assert (runs / "a.png").read_bytes() == first
    zoo("sample images --n 20 --seed 4 --label 7 --out b.png")
    assert (runs / "b.png").read_bytes() != first


@pytest.mark.contract
def test_sample_writes_texts(zoo):
    status, said, _ = zoo("sample texts --n 3")
    assert status == 0 and len(said) == 3 * 9


@pytest.mark.contract
@pytest.mark.parametrize(
    "command, words",
    [
        ("sample images --label 11", "unknown label"),
        ("sample images --n 0", "between 1 and"),
        ("sample images --prompt The", "--prompt is not for"),
        ("sample texts --label 1", "not conditional"),
        ("predict images x.npz", "predicts nothing"),
        ("translate texts word", "translates, found recurrent_vae"),
        ("translate images word", "translates, found conditional_vae"),
    ],
)
def test_a_mistake_is_a_sentence(command, words, zoo):
    status, _, error = zoo(command)
    assert status == 2 and words in error and error.count("\n") == 1


@pytest.mark.contract
def test_a_generator_that_learned_nothing_is_no_success(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    flags = "--data digits --latent 4 --steps 1"
    assert main(f"train gan {flags} --out {tmp_path}/run".split()) == 1
    assert "zoo: the training failed: the " in capsys.readouterr().err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["failure"] and result["metrics"]["rarest"] < 0.03
    assert main(f"eval {tmp_path}/run".split()) == 1
    assert "failed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name, flags, words",
    [
        ("autoencoder", {"data": "wine"}, "images"),
        ("denoising_autoencoder", {"noise": 0.0}, "noise"),
        ("autoencoder", {"network": "lstm"}, "network"),
        ("vae", {"likelihood": "poisson"}, "likelihood"),
        ("recurrent_vae", {"word_dropout": 2.0}, "word_dropout"),
        ("recurrent_vae", {"latent": -1}, "latent"),
        ("gan", {"game": "chess"}, "game"),
        ("wgan_gp", {"penalty": 0.0}, "penalty"),
        ("wgan_gp", {"critic_steps": 0}, "steps"),
        ("dcgan", {"learning_rate": -1.0}, "learning rate"),
        ("dcgan", {"optimizer": "sgd"}, "no betas .* for sgd"),
        ("dcgan", {"betas": (0.5, 1.0)}, "betas in"),
        ("vae", {"laten": 3}, "unknown keyword 'laten'; did you mean 'latent'"),
        ("semi_supervised_gan", {"labels": 15}, "multiple"),
        ("semi_supervised_gan", {"labels": 10_000}, "examples of each class"),
    ],
)
def test_a_recipe_refuses_what_cannot_be(name, flags, words):
    with pytest.raises(UsageError, match=words):
        prepare(RECIPES[name], **flags)


def test_an_autoencoder_draws_no_label():
    recipe = prepare(RECIPES["autoencoder"], data="digits", latent=4)
    with pytest.raises(UsageError, match="not conditional"):
        recipe.report.sample(None, recipe.data, 0, 16, 3)


@pytest.mark.contract
def test_few_labels_are_balanced_and_true():
    recipe = prepare(RECIPES["semi_supervised_gan"], data="digits", labels=20)
    train, whole = recipe.parts.train, sets.between(sets.load("digits"), -1, 1).train
    np.testing.assert_array_equal(train["x"], whole["x"])
    np.testing.assert_array_equal(train["y"], whole["y"])
    assert (np.bincount(train["y"][train["known"]], minlength=10) == 2).all()
    alone = prepare(RECIPES["few_labels"], data="digits", labels=20, batch_size=20)
    for source, name in ((recipe.source(), "labelled"), (alone.source(), "x")):
        assert len(np.unique(train["x"], axis=0)) > 1000
        batch = source.batch(source.arrays, np.uint32(0), np.int32(3))
        if name == "labelled":  # the other has noise on it
            for image, label in zip(batch[name], batch["y"], strict=True):
                same = (train["x"] == np.asarray(image)).all((1, 2, 3))
                assert (same & train["known"] & (train["y"] == label)).any()
        assert set(np.asarray(batch["y"])) == set(range(10))


# Comparisons --------------------------------------------------------------------------


def measured(name, tmp_path, **flags):
    """The metrics of a whole run."""
    from train.cli import run

    out = tmp_path / "-".join([name, *map(str, flags.values())])
    options = run.Options(seed=flags.pop("seed", 0))
    return run.train(name, flags, options, out, False).result["metrics"]


@pytest.mark.slow
def test_a_mixture_trained_by_steps_is_near_one_fitted_by_em(tmp_path, capsys):
    data = prepare(RECIPES["bernoulli_mixture"]).parts
    x, test = (part["x"].reshape(-1, 784) for part in (data.train, data.test))
    draw = np.random.default_rng(0)
    mu, pi = 0.5 * x[draw.permutation(len(x))[:100]] + 0.25, np.full(100, 0.01)

    def joint(x):
        return x @ np.log(mu).T + (1 - x) @ np.log1p(-mu).T + np.log(pi)

    for _ in range(50):
        share = np.asarray(jax.nn.softmax(joint(x), -1))
        count = share.sum(0)
        mu = (share.T @ x + 0.1) / (count[:, None] + 0.5)  # a little of the mean
        pi = (count + 1) / (count + 1).sum()
    em = -float(jax.nn.logsumexp(joint(test), -1).mean())
    loss = measured("bernoulli_mixture", tmp_path)["loss"]
    with capsys.disabled():
        print(f"\nmixture of 100 Bernoullis: {loss:.2f} nats, by EM {em:.2f}")
    assert abs(loss - em) < 10


@pytest.mark.slow
@pytest.mark.long
def test_few_labels_are_worth_more_with_images_without(tmp_path, capsys):
    def mean(name):
        runs = [measured(name, tmp_path, seed=i) for i in range(3)]
        return float(np.mean([run["accuracy"] for run in runs]))

    both, alone = mean("semi_supervised_gan"), mean("few_labels")
    with capsys.disabled():
        print(f"\n100 labels, 3 seeds: {alone:.4f} alone, {both:.4f} with images")
    assert both > alone + 0.05


@pytest.mark.slow
@pytest.mark.long
def test_a_latent_space_helps_a_decoder_that_sees_little(tmp_path, capsys):
    with_it = measured("recurrent_vae", tmp_path)
    without = measured("recurrent_vae", tmp_path, latent=0)
    with capsys.disabled():
        print(f"\nnats a window: {with_it['loss']:.2f}, alone {without['loss']:.2f}")
    assert without["kl"] == 0 and with_it["kl"] > 1
    assert with_it["loss"] < without["loss"]
