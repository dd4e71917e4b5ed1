"""What a trained sequence model says: text that goes on, words in another tongue."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from train.data import Schema, pairs, text
from train.step import Trained
from zoo import language, seq2seq
from zoo.base import UsageError, check_int
from zoo.transformer import EncoderDecoder, attention_maps


def write(
    model: nn.Module,
    schema: Schema,
    trained: Trained,
    prompt: str,
    length: int,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    context: int | None = None,
) -> str:
    """The `length` characters that a language model puts after a prompt.

    A model with a `context` reads no further back than that: at first the whole prompt,
    and where the context is full, its last half. Raises UsageError for a prompt that is
    empty, longer than the context or has unknown characters, and for numbers out of
    range.
    """
    if length < 1:
        raise UsageError(f"expected a length of at least 1, found {length}")
    tokens = text.encode(schema, prompt)
    if context is not None and len(tokens) > context:
        raise UsageError(
            f"expected a prompt of at most {context} characters, the model's context, "
            f"found {len(tokens)}"
        )
    language.check_options(len(schema.tokens), temperature, top_k, top_p)
    variables, begin, i = {"params": trained.params, **trained.model}, len(tokens), 0
    half = begin if context is None else max(1, context // 2)
    width, piece = max(half, begin), length
    while len(tokens) < begin + length:
        if context is not None:  # a piece's last token is not read in it
            piece = max(1, min(context - half, context - width + 1))
        tail = tokens[-width:]
        padded = np.pad(tail, (0, width - len(tail)))[None]
        key, ends = jax.random.fold_in(jax.random.key(seed), i), jnp.array([len(tail)])
        draw = (temperature or None, top_p)  # a 0 that is known needs no draw
        more = _write(model, piece, top_k, variables, key, padded, ends, *draw)
        tokens = np.concatenate([tokens, np.asarray(more)[0]])
        width, i = half, i + 1
    return text.decode(schema.tokens, tokens[begin : begin + length])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _write(model, length, top_k, variables, key, prompt, ends, temperature, top_p):
    return language.generate(
        model,
        variables,
        key,
        prompt,
        length,
        prompt_length=ends,
        temperature=0.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
    )


class Translation(NamedTuple):
    """What one source became."""

    text: str
    log_probability: float  # nats, the end included
    source: list[str]  # its S tokens
    target: list[str]  # its T tokens, with the end
    attention: np.ndarray  # [T, S], of the last layer, the mean of its heads


def translate(
    model: nn.Module,
    schema: Schema,
    trained: Trained,
    sources: list[str],
    *,
    beams: int = 4,
) -> list[Translation]:
    """The likeliest target found for each source, and what was read to write it.

    Raises UsageError for sources that the model cannot read, and for none.
    """
    check_int("beams", beams, 1)
    if isinstance(sources, str) or not len(sources):
        raise UsageError(f"expected a list of texts to translate, found {sources!r}")
    tokens = [pairs.encode_source(schema, source) for source in sources]
    width = schema.shape[0]
    padded = np.stack([np.pad(row, (0, width - len(row))) for row in tokens])
    variables = {"params": trained.params, **trained.model}
    found, score = decode(model, schema, variables, padded, beams)
    before = np.pad(found, ((0, 0), (1, 0)), constant_values=seq2seq.START)[:, :-1]
    weights = align(model, variables, padded, before)
    results = []
    for row, source, p, w in zip(found, tokens, score, weights, strict=True):
        names = pairs.target_names(schema, row)
        ended = names + [schema.target_tokens[pairs.END]] * (len(names) < len(row))
        results.append(
            Translation(
                pairs.decode_target(schema, row),
                float(p),
                [schema.tokens[token] for token in source],
                ended,
                w[: len(ended), : len(source)],
            )
        )
    return results


def decode(
    model: nn.Module, schema: Schema, variables: Any, source: np.ndarray, beams: int
) -> tuple[np.ndarray, np.ndarray]:
    """Source [B, S] -> (targets [B, T], log p [B]); T is the data's longest and ten."""
    run = _compiled(model, schema.target_shape[0] + 10, beams)
    return jax.device_get(run(variables, jnp.asarray(source)))


def decode_all(
    model: nn.Module, schema: Schema, variables: Any, source: np.ndarray
) -> np.ndarray:
    """Sources [N, S] -> greedy targets [N, T], in batches of one compiled size."""
    size = min(512, len(source))
    parts = []
    for start in range(0, len(source), size):
        part = source[start : start + size]
        full = np.pad(part, ((0, size - len(part)), (0, 0)))
        parts.append(decode(model, schema, variables, full, 1)[0][: len(part)])
    return np.concatenate(parts)


@functools.cache
def _compiled(network, length, beams):
    def run(variables, source):
        return seq2seq.translate(network, variables, source, length, beams=beams)

    return jax.jit(run)


def align(network: nn.Module, variables: Any, source: Any, before: Any) -> np.ndarray:
    """Attention weights [B, T, S] while the target's tokens are written."""
    source, before = jnp.asarray(source), jnp.asarray(before)
    if isinstance(network, EncoderDecoder):
        maps = attention_maps(network, variables, source, before)
        return np.asarray(maps["cross"][-1].mean(1))
    return np.asarray(network.apply(variables, source, before, method="align"))
