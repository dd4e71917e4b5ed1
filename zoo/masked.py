"""Masked autoencoders: most patches of an image from the few that are seen.

He et al., "Masked autoencoders are scalable vision learners", 2021, arXiv:2111.06377.
Dosovitskiy et al., "An image is worth 16x16 words", 2021, arXiv:2010.11929 (patches).
Shapes: B batch, H height, W width, C channels, P side of a patch, N patches,
K patches that are seen, F features, D = P P C pixels of a patch.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Float, Int, PRNGKeyArray, Shaped

from zoo.attention import sinusoid
from zoo.base import Model, Task, UsageError, apply, check_int, float32, judged, parted
from zoo.checks import check_inputs
from zoo.transformer import stack
from zoo.types import Array, Dtype, Tree


def patchify(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B N D"]:
    """An image's patches, row by row: [B, H, W, C] -> [B, N, side * side * C].

    Raises UsageError where they do not fill it.
    """
    rows, columns = grid(x.shape[1:], side)
    x = x.reshape(x.shape[0], rows, side, columns, side, x.shape[3])
    return x.swapaxes(2, 3).reshape(x.shape[0], rows * columns, -1)


def unpatchify(
    patches: Float[Array, "B N D"], shape: tuple[int, ...], side: int
) -> Float[Array, "B H W C"]:
    """Images of `shape` from their patches: what `patchify` undoes."""
    rows, columns = grid(shape, side)
    x = patches.reshape(patches.shape[0], rows, columns, side, side, shape[2])
    return x.swapaxes(2, 3).reshape(patches.shape[0], *shape)


def grid(shape: tuple[int, ...], side: int) -> tuple[int, int]:
    """How many patches there are, down and across. Raises UsageError."""
    height, width = shape[:2]
    if check_int("patch", side, 1) and (height % side or width % side):
        raise UsageError(
            f"expected a patch that divides images of {height} x {width}, found {side}"
        )
    return height // side, width // side


def places(shape: tuple[int, int], width: int) -> Float[Array, "N {width}"]:
    """Sinusoids of each patch's row beside those of its column."""
    down, across = (jnp.arange(n) for n in shape)
    each = sinusoid(down, width // 2), sinusoid(across, width - width // 2)
    both = jnp.repeat(each[0], shape[1], 0), jnp.tile(each[1], (shape[0], 1))
    return jnp.concatenate(both, -1)


class MaskedAutoencoder(nn.Module):
    """A Transformer that sees some patches, and a smaller one that draws all.

    For images of `shape`, H x W x C. Raises UsageError where patches do not fill it.
    """

    shape: tuple[int, ...]
    patch: int = 4
    width: int = 64
    layers: int = 3
    heads: int = 4
    decoder_width: int = 48
    decoder_layers: int = 1
    dtype: Dtype = None

    def setup(self):
        self.grid = grid(self.shape, self.patch)
        self.embed = nn.Dense(self.width, dtype=self.dtype)
        self.encoder = self._stack(self.layers, self.width)
        self.norm = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.narrow = nn.Dense(self.decoder_width, dtype=self.dtype)
        normal = nn.initializers.normal(0.02)
        self.unseen = self.param("unseen", normal, (self.decoder_width,))
        self.decoder = self._stack(self.decoder_layers, self.decoder_width)
        self.decoder_norm = nn.LayerNorm(1e-5, dtype=self.dtype)
        self.pixels = nn.Dense(self.patch**2 * self.shape[2], dtype=self.dtype)

    @property
    def patches(self) -> int:
        """N."""
        rows, columns = grid(self.shape, self.patch)
        return rows * columns

    def encode(
        self, patches: Float[Array, "B K D"], at: Int[Array, "B K"] | None = None
    ) -> Float[Array, "B K F"]:
        """Patches, which stand at those of the N places (None: at all of them)."""
        where = places(self.grid, self.width)
        where = where[None] if at is None else where[at]
        return self.norm(_run(self.encoder, self.embed(patches) + where))

    def features(self, x: Shaped[Array, "B *image"]) -> Float[Array, "B F"]:
        """Of whole images: the mean over their patches. UsageError for others."""
        return float32(self.encode(self._patches(x)).mean(1))

    def __call__(
        self,
        x: Shaped[Array, "B *image"],
        at: Int[Array, "B K"],
        *,
        train: bool = False,
    ) -> Float[Array, "B N D"]:
        """All patches [B, N, D] as drawn from those at K places. UsageError."""
        seen = jnp.take_along_axis(self._patches(x), at[..., None], 1)
        known = self.narrow(self.encode(seen, at))
        put = nn.one_hot(at, self.patches, axis=1, dtype=known.dtype)  # [B, N, K]
        unseen = self.unseen.astype(known.dtype).reshape(1, 1, -1)
        hidden = (1 - put.sum(-1, keepdims=True)) * unseen
        z = put @ known + hidden + places(self.grid, self.decoder_width)[None]
        return float32(self.pixels(self.decoder_norm(_run(self.decoder, z))))

    def _stack(self, layers, width):
        return stack(layers, width=width, heads=self.heads, dtype=self.dtype)

    def _patches(self, x):
        x = check_inputs(x, "B H W C")
        if x.shape[1:] != self.shape:
            raise UsageError(f"expected images {self.shape}, found {x.shape[1:]}")
        return patchify(x, self.patch)


class Classifier(nn.Module):
    """Logits by a line from what the encoder of `body` says of whole images.

    To be tuned as a whole, its body begun with the `encoder` of one that can draw.
    """

    outputs: int
    body: MaskedAutoencoder

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "B *image"], *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Raises UsageError as `MaskedAutoencoder.features`."""
        return nn.Dense(self.outputs, name="head")(self.body.features(x))


def _run(blocks, x):
    return blocks(x, None, None, None, None, None, False)[0]


def choose(
    key: PRNGKeyArray, images: int, patches: int, kept: int
) -> Int[Array, "{images} {kept}"]:
    """So many of the places of patches for each image, any as likely, in order."""
    order = jnp.argsort(jax.random.uniform(key, (images, patches)), -1)
    return jnp.sort(order[:, :kept], -1)


def kept_of(patches: int, hidden: float) -> int:
    """How many patches are seen where a share is hidden.

    Raises UsageError unless some are seen and some hidden.
    """
    kept = round(patches * (1 - hidden))
    if not 0 < kept < patches:
        raise UsageError(
            f"expected a share of {patches} hidden patches that leaves some to see and "
            f"some to draw, found {hidden}"
        )
    return kept


def hidden_error(
    drawn: Float[Array, "B N D"],
    true: Float[Array, "B N D"],
    at: Int[Array, "B K"],
) -> Float[Array, "B"]:
    """Mean squared error over the pixels of the patches that are not `at` [B, K]."""
    error = jnp.square(drawn - true).mean(-1)
    hidden = 1 - nn.one_hot(at, true.shape[1]).sum(1)
    return (error * hidden).sum(-1) / hidden.sum(-1)


def task(model: MaskedAutoencoder, *, hidden: float = 0.75) -> Task:
    """Draws the share of the patches of batch["x"] `[B, H, W, C]` that is `hidden`.

    Which ones, the key says, in evaluation too. Metric: "loss", the mean squared error
    of a hidden pixel. Raises UsageError.
    """
    kept = kept_of(model.patches, hidden)

    def init(key, batch):
        n = batch["x"].shape[0]
        at = jnp.broadcast_to(jnp.arange(kept)[None], (n, kept))
        return parted(model.init(key, batch["x"], at))

    def loss(params, state, batch, key, *, train):
        x = batch["x"]
        at = choose(key, x.shape[0], model.patches, kept)
        drawn, state = apply(model, params, state, x, at, train=train)
        error = hidden_error(drawn, patchify(x, model.patch), at)
        return judged({"loss": error}, batch.get("mask"), state)

    return Task(init, loss)


def encoder(params: Tree) -> Tree:
    """Of a `MaskedAutoencoder`'s parameters those that a `Classifier`'s body has."""
    return {name: params[name] for name in ("embed", "encoder", "norm", "unseen")}


def features(
    model: Model, variables: Tree, x: Shaped[Array, "B *image"]
) -> Float[Array, "B F"]:
    """What a trained encoder says of images [B, H, W, C], all of them seen."""
    return model.apply(variables, x, method="features")


def complete(
    model: MaskedAutoencoder,
    variables: Tree,
    x: Float[Array, "B H W C"],
    at: Int[Array, "B K"],
) -> Float[Array, "B H W C"]:
    """Images whose patches `at` are as they are, and the others drawn from these."""
    return _beside(model, x, at, model.apply(variables, x, at))


def covered(
    model: MaskedAutoencoder, x: Float[Array, "B H W C"], at: Int[Array, "B K"]
) -> Float[Array, "B H W C"]:
    """Images as the encoder sees them: 0 but for the patches `at`."""
    return _beside(model, x, at, 0.0)


def _beside(model, x, at, other):
    """The patches `at` of images, and others elsewhere."""
    true = patchify(x, model.patch)
    seen = nn.one_hot(at, true.shape[1]).sum(1)[..., None] > 0
    return unpatchify(jnp.where(seen, true, other), model.shape, model.patch)
