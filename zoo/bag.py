"""A text as a bag of words: how often each stands there, in whatever order.

Salton & Buckley, "Term-weighting approaches in automatic text retrieval", 1988.
Shapes: B batch, T tokens of a text, V tokens of the vocabulary, K classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Float

from zoo.base import entries
from zoo.checks import check_tokens
from zoo.types import Array, Lengths, Raw


class Bag(nn.Module):
    """A dense layer on the tf-idf weights of a text's words.

    `frequencies` [V] is in how many of `documents` texts each token stands. Token 0 is
    an unknown one, and has no weight.
    """

    outputs: int
    frequencies: tuple[int, ...]
    documents: int

    @nn.compact
    def __call__(
        self, x: Raw, length: Lengths | None = None, *, train: bool = False
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits of tokens [B, T]. Raises UsageError for what are no tokens."""
        weights = tf_idf(x, length, self.frequencies, self.documents)
        return nn.Dense(self.outputs, name="dense")(weights)


def tf_idf(
    x: Raw, length: Lengths | None, frequencies: tuple[int, ...], documents: int
) -> Float[Array, "B V"]:
    """Tokens [B, T] -> count x (1 + ln((1 + documents) / (1 + frequency))), of norm 1.

    As scikit-learn's TfidfVectorizer has it; a text without known tokens is all zeros,
    one with a token outside of the vocabulary NaN.
    Raises UsageError for what are no tokens.
    """
    x = check_tokens(x)
    known = x > 0
    if length is not None:
        known &= entries(length, x)
    nothing = jnp.zeros(len(frequencies))
    counts = jax.vmap(lambda row, real: nothing.at[row].add(real))(x, known)
    rarity = 1 + np.log((1 + documents) / (1 + np.array(frequencies)))
    weights = counts * jnp.asarray(rarity, counts.dtype)[None]
    norm = jnp.linalg.norm(weights, axis=-1, keepdims=True)
    # a token of no vocabulary is NaN, as it is to an embedding; added, it would be lost
    wrong = ((x < 0) | (x >= len(frequencies))).any(-1, keepdims=True)
    return jnp.where(wrong, jnp.nan, weights / jnp.maximum(norm, 1e-12))
