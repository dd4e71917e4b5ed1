"""Stacks of Boltzmann machines: as layers of a perceptron, and as a generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.test_energy import N, arrays, close, joint, machine, states
from train import loop, optim
from train.data import Split, views
from train.evaluate import evaluate
from train.recipes.energy import pretrain
from train.source import examples
from zoo import belief, energy, supervised
from zoo.base import UsageError
from zoo.mlp import MLP

# compiling takes longer than what it shows
pytestmark = pytest.mark.contract

WIDTHS = (500, 500)


def stacked(visible, widths, likelihood="bernoulli"):
    """Machines with random parameters."""
    models = belief.stack(visible, widths, likelihood)
    layers = [
        machine(m.likelihood, m.visible, m.units, seed=i)[1]["params"]
        for i, m in enumerate(models)
    ]
    return models, layers


def test_a_stack_sees_what_is_hidden_below():
    models = belief.stack(64, (32, 16), "gaussian")
    assert [(m.visible, m.units) for m in models] == [(64, 32), (32, 16)]
    assert [m.likelihood for m in models] == ["gaussian", "bernoulli"]
    with pytest.raises(UsageError, match="a machine or more, found none"):
        belief.stack(64, ())


def test_a_perceptron_begun_with_a_stack_has_its_features():
    models, layers = stacked(6, (5, 4, 3))
    x = jax.random.uniform(jax.random.key(0), (7, 2, 3))
    network = MLP(3, (5, 4, 3), nn.sigmoid)
    begun = belief.as_mlp(layers)
    out = {"Dense_3": {"kernel": jnp.eye(3), "bias": jnp.zeros(3)}}
    params = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    shapes = [jax.tree.map(lambda p: p.shape, tree) for tree in (begun | out, params)]
    assert shapes[0] == shapes[1]
    seen = x
    for model, own in zip(models, layers, strict=True):
        seen = belief.features(model, {"params": own}, seen)
    close(network.apply({"params": begun | out}, x), seen)


@pytest.mark.parametrize("widths", [(3,), (4, 3)])
def test_a_stack_generates_what_its_layers_say(widths):
    models, layers = stacked(5, widths)
    run = jax.jit(belief.generate, static_argnums=(0, 3, 4))
    found = run(models, layers, jax.random.key(1), N, 40)
    # the top machine's visible units, counted; then each layer given the one above
    p = joint({"params": layers[-1]})[0].sum(1)
    if len(widths) == 1:
        wanted = p @ states(5)
    else:
        w, a, _ = arrays({"params": layers[0]})
        wanted = p @ (1 / (1 + np.exp(-(a + states(4) @ w.T))))
    assert np.abs(found.mean(0) - wanted).max() < 4.5 * 0.5 / N**0.5
    w, a, _ = arrays({"params": layers[0]})  # without what is hidden
    assert np.abs(1 / (1 + np.exp(-a)) - wanted).max() > 0.05


@pytest.mark.contract
def test_pretraining_is_one_training_after_the_other():
    x = np.random.default_rng(0).integers(0, 2, (40, 2, 3)).astype("f4")
    models = belief.stack(6, (5, 4))
    flags = {"steps": 5, "batch_size": 10, "chains": 7, "learning_rate": 0.05}
    found = pretrain(models, {"x": x}, seed=3, **flags)
    for i, model in enumerate(models):
        task = energy.task(model, chains=7)
        rate = optim.schedule("cosine", 0.05, 5)
        rows = examples({"x": x}, 10)
        fit = loop.fit(
            *(task, optim.optimizer("adam", rate), rows),
            steps=5,
            seed=3 + i,
            progress=False,
        )
        jax.tree.map(close, found[i], fit.trained.params)
        x = np.asarray(belief.features(model, {"params": found[i]}, x))


@pytest.mark.long
@pytest.mark.slow
def test_pretraining_helps_where_labels_are_few(capsys):
    """100 labels of mnist5k, the others' images without: means of three seeds."""
    scores = {"with": [], "without": []}
    for seed in range(3):
        request = Split("mnist5k", 0.0, seed)
        data = views.few_labels(request, labels=100)
        black = views.pixels(Split("mnist5k"))
        few = (
            black.train["x"][data.train["known"]],
            data.train["y"][data.train["known"]],
        )
        rows = dict(zip(("x", "y"), few, strict=True))
        layers = pretrain(belief.stack(784, WIDTHS), black.train, seed=seed)
        task = supervised.task(MLP(10, WIDTHS, nn.sigmoid), supervised.classes)
        for name, init in (("with", belief.as_mlp(layers)), ("without", None)):
            found = loop.fit(
                *(task, optim.optimizer("adam", 1e-3), examples(rows, None)),
                steps=300,
                seed=seed,
                init=init,
                progress=False,
            )
            scores[name].append(evaluate(task, found.trained, black.test)["accuracy"])
    with capsys.disabled():
        print(f"\n100 labels: {scores}")
    assert np.mean(scores["with"]) > np.mean(scores["without"]) + 0.02
