"""Graph neural networks: what a node is follows from itself and its neighbours.

A batch is of graphs, and one graph is a batch of one: "x" [B, N, D] of the nodes,
"edges" [B, E, 2] from node i to node j (both ways where there is no direction, see
`undirected`) and, of graphs that are padded to one size, "length" [B], how many nodes
are real, and "edge_mask" [B, E], which edges are: the others count for nothing. So
`zoo.supervised.task` classifies nodes (y [B, N], and a "mask" [B, N] of the labels that
count: transductive learning) and graphs (y [B]); `links` is the task of pairs of nodes.
Shapes: B graphs, N nodes, E edges, D features in, F out, H heads, K classes, P pairs.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Bool, Float, Int, PRNGKeyArray, Shaped
from optax import losses

from zoo.base import (
    Model,
    Task,
    UsageError,
    apply,
    check_choice,
    check_inputs,
    entries,
    float32,
    judged,
    masked,
    parted,
)
from zoo.edges import Edges, at, edges_of, softmax, total, with_loops
from zoo.edges import check_edges as check_edges
from zoo.edges import undirected as undirected
from zoo.layers import Dropout
from zoo.types import Activation, Array, Dtype, Lengths, Number, Raw, Tree

Readout = Literal["sum", "mean", "max", "first"]
INPUTS = ("x", "edges", "length", "edge_mask")
"""The arguments of a network of padded graphs; without padding, the first two."""

glorot = nn.initializers.glorot_uniform()  # as all of these papers' own code has it


# Layers: (x [B, N, D], edges, train=...) -> [B, N, F] --------------------------------


class GCN(nn.Module):
    """D^-1/2 (A + I) D^-1/2 X W + b, D the degrees of A + I.

    Kipf & Welling, "Semi-supervised classification with graph convolutional networks",
    2017, arXiv:1609.02907, equation 2.
    """

    features: int
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], edges: Edges, *, train: bool = False
    ) -> Float[Array, "B N {self.features}"]:
        """[B, N, D] -> [B, N, features]."""
        nodes = x.shape[1]
        ones = jnp.ones(edges.real.shape, x.dtype)
        scale = jax.lax.rsqrt(1 + total(ones, edges, nodes))[..., None]
        h = scale * _dense(self.features, self.dtype, "dense")(x)
        h = scale * (h + total(at(h, edges.source), edges, nodes))  # I, and A
        return h + _bias(self, self.features)


class SAGE(nn.Module):
    """x_i W + b + (mean over neighbours j of x_j) V; 0 for the mean of none.

    Hamilton et al., "Inductive representation learning on large graphs", 2017,
    arXiv:1706.02216, algorithm 1 with the mean, without the norm of line 7.
    """

    features: int
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], edges: Edges, *, train: bool = False
    ) -> Float[Array, "B N {self.features}"]:
        """[B, N, D] -> [B, N, features]."""
        nodes = x.shape[1]
        h = _dense(self.features, self.dtype, "neighbours")(x)
        count = total(jnp.ones(edges.real.shape, h.dtype), edges, nodes)[..., None]
        mean = total(at(h, edges.source), edges, nodes) / jnp.maximum(count, 1)
        own = _dense(self.features, self.dtype, "own")(x)
        return own + mean + _bias(self, self.features)


class GIN(nn.Module):
    """MLP((1 + eps) x_i + sum over neighbours j of x_j), two layers with relu between.

    As strong as the test of Weisfeiler & Lehman: Xu et al., "How powerful are graph
    neural networks?", 2019, arXiv:1810.00826, equation 4.1; without its batch norm.
    """

    features: int
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], edges: Edges, *, train: bool = False
    ) -> Float[Array, "B N {self.features}"]:
        """[B, N, D] -> [B, N, features]."""
        epsilon = self.param("epsilon", nn.initializers.zeros_init(), ())
        h = (1 + epsilon.astype(x.dtype)) * x
        h = h + total(at(x, edges.source), edges, x.shape[1])
        h = nn.relu(nn.Dense(self.features, dtype=self.dtype)(h))
        return nn.Dense(self.features, dtype=self.dtype)(h)


class GAT(nn.Module):
    """sum over j of a_ij W x_j + b: attention over the neighbours of i and itself.

    a is the softmax over j of LeakyReLU(query . W x_i + key . W x_j): Velickovic et
    al., "Graph attention networks", 2018, arXiv:1710.10903, equations 3 to 6. With
    `second`, of vector . LeakyReLU(W' x_i + W x_j), which ranks neighbours anew for
    each node: Brody et al., "How attentive are graph attention networks?", 2022,
    arXiv:2105.14491, equation 7. `features` are of all heads, side by side; with
    `average`, of each, and their mean is given. `dropout` is of a. The weights
    [B, E + N, H], the loops the last, are sown into "intermediates".
    """

    features: int
    heads: int = 1
    average: bool = False
    second: bool = False
    dropout: Number = 0.0
    dtype: Dtype = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N D"], edges: Edges, *, train: bool = False
    ) -> Float[Array, "B N {self.features}"]:
        """Raises UsageError where the heads do not divide the features."""
        if self.features % self.heads and not self.average:
            found = f"{self.heads} heads and {self.features} features"
            raise UsageError(f"expected heads that divide the features, found {found}")
        nodes, edges = x.shape[1], with_loops(edges, x.shape[1])
        each = self.features if self.average else self.features // self.heads
        shape = self.heads, each

        def project(name):
            h = _dense(self.heads * each, self.dtype, name)(x)
            return h.reshape(*h.shape[:2], *shape)

        h = project("dense")
        if self.second:
            sent, asked = at(h, edges.source), at(project("asking"), edges.target)
            scores = self._along("vector", nn.leaky_relu(sent + asked, 0.2))
        else:
            query, key = self._along("query", h), self._along("key", h)
            scores = at(query, edges.target) + at(key, edges.source)
            scores, sent = nn.leaky_relu(scores, 0.2), at(h, edges.source)
        weights = softmax(scores, edges, nodes)
        self.sow("intermediates", "weights", weights, reduce_fn=_last, init_fn=tuple)
        weights = Dropout(self.dropout)(weights, train=train)
        h = total(weights[..., None] * sent, edges, nodes)  # [B, N, H, F]
        h = h.mean(2) if self.average else h.reshape(*x.shape[:2], self.features)
        return h + _bias(self, self.features)

    def _along(self, name, h):
        """h [..., H, F] along a vector of each head: [..., H]."""
        vector = self.param(name, glorot, h.shape[2:]).astype(h.dtype)
        return (h * vector[None, None]).sum(-1)


def _last(old, new):
    return new


def _dense(features, dtype, name):
    return nn.Dense(features, False, dtype, kernel_init=glorot, name=name)


def _bias(module, features):
    bias = module.param("bias", nn.initializers.zeros_init(), (features,))
    return bias.reshape(1, 1, -1).astype(module.dtype or bias.dtype)


# Networks -----------------------------------------------------------------------------


class Network(nn.Module):
    """Layers on nodes, each after dropout, with an activation between them.

    Whatever features the last layer has are the outputs: logits of K classes.
    """

    layers: tuple[nn.Module, ...]
    activation: Activation = nn.relu
    dropout: Number = 0.0

    def __call__(
        self,
        x: Raw,
        edges: Raw,
        length: Lengths | None = None,
        edge_mask: Shaped[Array, "B E"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B N K"]:
        """Of each node. Raises UsageError for wrong shapes and types, and nodes."""
        return float32(self.each(x, edges, length, edge_mask, train=train)[-1])

    @nn.compact
    def each(
        self, x: Raw, edges: Raw, length: Any = None, mask: Any = None, *, train=False
    ) -> list[Float[Array, "B N F"]]:
        """What each layer makes of the nodes, after the activation but for the last."""
        x = check_inputs(x, "B N D")
        if length is not None:  # a NaN of padding would be one in a gradient
            x = jnp.where(entries(length, x)[..., None], x, 0)
        neighbours = edges_of(edges, x.shape[1], length, mask)
        found: list[Any] = []
        for layer in self.layers:
            if found:
                x = found[-1] = self.activation(found[-1])
            x = Dropout(self.dropout)(x, train=train)
            found.append(layer(x, neighbours, train=train))
        return found


class Classifier(nn.Module):
    """One answer for a graph: what its nodes are in each layer, read out, and dense.

    `readout` is "sum", "mean" or "max" over the nodes that are no padding, of every
    layer, side by side (Xu et al. 2019, equation 4.2; the last one's too go through the
    activation); "first" gives the network's own output of node 0, for trees of sampled
    neighbours, without parameters of its own.
    """

    outputs: int
    network: Network
    readout: Readout = "sum"

    @nn.compact
    def __call__(
        self,
        x: Raw,
        edges: Raw,
        length: Lengths | None = None,
        edge_mask: Shaped[Array, "B E"] | None = None,
        *,
        train: bool = False,
    ) -> Float[Array, "B {self.outputs}"]:
        """Logits. Raises UsageError as the network does."""
        check_choice("readout", self.readout, ("sum", "mean", "max", "first"))
        found = self.network.each(x, edges, length, edge_mask, train=train)
        if self.readout == "first":
            return float32(found[-1][:, 0])
        found[-1] = self.network.activation(found[-1])
        read = [_read(self.readout, h, length) for h in found]
        h = Dropout(self.network.dropout)(jnp.concatenate(read, -1), train=train)
        return float32(nn.Dense(self.outputs)(h))


def _read(how, h, length):
    """[B, N, F] -> [B, F] over the nodes that are no padding; 0 of none."""
    length = jnp.full(h.shape[0], h.shape[1]) if length is None else length
    real = entries(length, h)[..., None]
    if how == "max":
        most = jnp.where(real, h, -jnp.inf).max(1)
        return jnp.where(length.reshape(-1, 1) > 0, most, 0)
    summed = jnp.where(real, h, 0).sum(1)
    return summed / jnp.maximum(length, 1).reshape(-1, 1) if how == "mean" else summed


def attention_maps(
    model: nn.Module, variables: Tree, *inputs: Raw
) -> list[Float[Array, "B L H"]]:
    """The weights of each layer of attention, of the E edges and N loops, in turn."""
    _, sown = model.apply(variables, *inputs, mutable="intermediates")
    return jax.tree.leaves(sown)


# Links --------------------------------------------------------------------------------


def links(encoder: Model, *, inputs: tuple[str, ...] = INPUTS[:2]) -> Task:
    """Which pairs of nodes are edges, by the dot product of what they are encoded as.

    Beside the encoder's inputs a batch has "pairs" [B, P, 2], and "y" [B, P], 1 for an
    edge; a "mask" is [B] or [B, P]. In training the pairs of edges alone count, each
    beside one drawn anew (`negatives`): Kipf & Welling, "Variational graph
    auto-encoders", 2016, arXiv:1611.07308, without the variance. `predict` gives
    probabilities [B, P].
    """

    def arguments(batch):
        return [batch[name] for name in inputs]

    def init(key, batch):
        return parted(encoder.init(key, *arguments(batch), train=False))

    def loss(params, state, batch, key, *, train):
        batch = masked(batch)
        pairs, y = batch["pairs"], batch["y"] > 0
        real = batch.get("mask", jnp.ones(len(pairs))).reshape(len(pairs), -1)
        real = jnp.broadcast_to(real, pairs.shape[:2])
        drop, draw = jax.random.split(key)
        z, state = apply(
            encoder, params, state, *arguments(batch), key=drop, train=train
        )
        if train:
            others, apart = negatives(draw, batch, pairs.shape[1])
            pairs, real = jnp.concatenate([pairs, others], 1), jnp.tile(real * y, 2)
            real *= jnp.concatenate([y, apart], 1)
            y = jnp.concatenate([y, jnp.zeros_like(y)], 1)
        logits = dots(z, pairs)
        values = {
            "loss": losses.sigmoid_binary_cross_entropy(logits, y.astype(z.dtype)),
            "accuracy": ((logits > 0) == y).astype(z.dtype),
        }
        return judged(values, real, state)

    def predict(params, state, batch):
        z = apply(encoder, params, state, *arguments(batch))[0]
        return nn.sigmoid(dots(z, batch["pairs"]))

    return Task(init, loss, predict)


def dots(z: Float[Array, "B N F"], pairs: Int[Array, "B P 2"]) -> Float[Array, "B P"]:
    """The dot product of the nodes of each pair."""
    return (at(z, pairs[..., 0]) * at(z, pairs[..., 1])).sum(-1)


def negatives(
    key: PRNGKeyArray, batch: dict[str, Any], count: int
) -> tuple[Int[Array, "B P 2"], Bool[Array, "B P"]]:
    """So many pairs of each graph, drawn evenly from its nodes, and which are no edge.

    Raises UsageError for more than 46,340 nodes: a pair is told by one number.
    """
    size, nodes = batch["x"].shape[:2]
    if nodes > 46_340:
        raise UsageError(f"expected at most 46340 nodes to pair, found {nodes}")
    length = batch.get("length", jnp.full(size, nodes)).reshape(-1, 1, 1)
    pairs = jax.random.randint(key, (size, count, 2), 0, length)
    ends = edges_of(batch["edges"], nodes, batch.get("length"), batch.get("edge_mask"))
    numbers = jnp.where(ends.real, ends.source * nodes + ends.target, -1)
    found = jax.vmap(jnp.isin)(pairs[..., 0] * nodes + pairs[..., 1], numbers)
    return pairs, ~found
