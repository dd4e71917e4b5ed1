"""What a recipe predicts, as a saved program: of any batch and any length of time."""

import jax
import numpy as np
import pytest

from tests.conftest import OF_ROWS, batch_of, small

# a model of each kind; the others are much alike, and compiling them takes a minute
QUICK = ("mlp", "cnn", "gru")
# they predict nothing of a row
SILENT = ("kmeans", "pca", "bernoulli_mixture", "rbm")
SILENT += ("gan", "dcgan", "wgan_gp", "conditional_gan", "simclr", "barlow_twins")
NAMES = [
    pytest.param(name, marks=[] if name in QUICK else [pytest.mark.contract])
    for name in OF_ROWS
    if "vae" not in name and "autoencoder" not in name and name not in SILENT
]
AXES = jax.export.symbolic_shape("b, t")


def inputs_of(recipe, rows, time=None):
    """The first rows of what `predict` reads, each sequence cut to a time."""
    batch = {k: np.asarray(a[:rows]) for k, a in batch_of(recipe).items() if k != "y"}
    if time is not None:
        batch["x"] = batch["x"][:, :time]
        if "length" in batch:
            batch["length"] = np.minimum(batch["length"], time)
    names = ("x", "length", "edges", "edge_mask")
    return {name: batch[name] for name in names if name in batch}


def symbolic(name, array, sequence):
    """The array's type, with a batch of any size and a sequence of any length."""
    axes = AXES if sequence and name == "x" else AXES[:1]
    return jax.ShapeDtypeStruct((*axes, *array.shape[len(axes) :]), array.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_predictions_are_exported_for_any_batch_and_time(name):
    recipe = small(name)
    schema, predict = recipe.schema, jax.jit(recipe.task.predict)
    sequence = bool(schema.lengths or schema.tokens)
    first = batch_of(recipe, 1)
    params, state = jax.jit(recipe.task.init)(jax.random.key(0), first)
    # weights that begin at zero would predict the same of everything
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: p + 0.05 * rng.normal(size=p.shape).astype(p.dtype), params
    )

    kinds = {key: symbolic(key, a, sequence) for key, a in inputs_of(recipe, 1).items()}
    exported = jax.export.export(predict)(
        *jax.tree.map(
            lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (params, state)
        ),
        kinds,
    )
    again = jax.export.deserialize(exported.serialize())
    times = (schema.shape[0], 5) if sequence else (None, None)
    for rows, time in zip((2, 3), times, strict=True):
        batch = inputs_of(recipe, rows, time)
        found, exact = again.call(params, state, batch), predict(params, state, batch)
        # float32 sums in another order
        np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-5)
        assert len(found) == rows
