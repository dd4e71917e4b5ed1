"""What a model is to a trainer, three pure functions; and what all models share.

Batches are dicts of arrays: "x", "y", optionally "length" [B] (entries of a sequence
that are no padding), "mask" [B] or [B, T] (0 drops an example, or an entry) and
"weight" [B], finite and not negative: training's loss and metrics are then means by
it, sum w l / sum w over what the mask keeps, as if an example stood there w times.
Evaluation does not see it.
Shapes: B batch, T time.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, PRNGKeyArray, Shaped

from zoo.checks import UsageError as UsageError
from zoo.checks import check_choice as check_choice
from zoo.checks import check_inputs as check_inputs
from zoo.checks import check_int as check_int
from zoo.checks import check_number as check_number
from zoo.checks import concrete as concrete
from zoo.checks import nearest as nearest
from zoo.checks import plain as plain
from zoo.types import Array, Lengths, Tree
from zoo.types import Number as Number

Batch = dict[str, Array]
Shapes = Mapping[str, Array | jax.ShapeDtypeStruct]


class Mean(NamedTuple):
    """A mean kept as (total, count), so that `a + b` merges two batches exactly."""

    total: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count

    @classmethod
    def of(
        cls, values: Shaped[Array, "..."], mask: Shaped[Array, "B ..."] | None = None
    ) -> "Mean":
        """The mean of values [B, ...] over what mask [B], or [B, T], keeps.

        A mask of other numbers than 0 and 1, as `masked` makes, weighs the values.
        What is dropped may be NaN. Sums are float32 at least: bfloat16 counts to 256.
        """
        values = float32(values)
        if mask is None:
            return cls(jnp.sum(values), jnp.asarray(values.size, values.dtype))
        mask = jnp.broadcast_to(_beside(mask, values), values.shape)
        weight = mask.astype(values.dtype)
        return cls(jnp.sum(jnp.where(mask != 0, values * weight, 0)), jnp.sum(weight))

    def __add__(self, other: "Mean") -> "Mean":  # type: ignore[override]
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Float[Array, ""]:
        """The mean itself; NaN, without a gradient, where nothing was counted."""
        some = self.count != 0
        return jnp.where(some, self.total / jnp.where(some, self.count, 1), jnp.nan)


def means(values: dict[str, Array], mask: Array | None) -> dict[str, Mean]:
    """Values [B] or [B, T] by name -> Means by name; a mask drops what is padding."""
    return {name: Mean.of(value, mask) for name, value in values.items()}


def masked(batch: Batch, state: Any = None) -> Batch:
    """The batch with zeros wherever its mask drops an example, or an entry of "y".

    What padding holds, NaN too, then reaches neither a value nor a gradient. In
    training, where the model's `state` is given, the mask is multiplied by the batch's
    "weight". Raises UsageError where that is of batch norm: it would have zeros in it.
    """
    batch, norm = dict(batch), "batch_stats" in str(jax.tree.structure(state))
    if norm and "mask" in batch:
        raise UsageError("expected no mask in training: the model has batch norm")
    if state is not None and "weight" in batch:
        batch["mask"] = _weighed(batch.pop("weight"), batch.get("mask"), norm)
    if "mask" not in batch:
        return batch
    mask = batch["mask"] != 0
    some = mask.reshape(mask.shape[0], -1).any(1)

    def clean(name, array):
        each = name == "y" and array.shape[: mask.ndim] == mask.shape
        kept = mask if each else some
        return jnp.where(_beside(kept, array), array, jnp.zeros((), array.dtype))

    return {k: a if k == "mask" else clean(k, a) for k, a in batch.items()}


def _weighed(weight, mask, norm):
    """A mask times a weight [B], which is 0, not NaN, of what the mask drops."""
    mask = jnp.ones(len(weight)) if mask is None else mask
    some = mask.reshape(len(mask), -1).any(1)
    weight = jnp.where(some, float32(weight), 0)
    if norm:  # sees an example of weight 0 too: none is dropped
        weight = jnp.maximum(weight, 1e-30 * weight.max())
    return mask * _beside(weight, mask)


def _beside(mask, values):
    """A mask with axes of one entry more, to stand beside values."""
    return mask.reshape(mask.shape + (1,) * (values.ndim - mask.ndim))


class Aux(NamedTuple):
    """What a loss reports beside its value."""

    metrics: dict[str, Mean]
    state: Any  # the model's own variables after this batch


# runtime_checkable: else the tests' checks of types could not see a Protocol
@runtime_checkable
class Model(Protocol):
    """A network: `init` and `apply` as a Linen module has them, pure functions both."""

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """(key, *inputs, ...) -> variables, a dict of trees with "params"."""

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """(variables, *inputs, ...) -> outputs; with `mutable`, (outputs, changed)."""


@runtime_checkable
class Init(Protocol):
    """(params, state) of a fresh model: a batch only supplies shapes and dtypes.

    `params` is what the optimizer changes, `state` what the model itself changes
    (batch statistics), {} if nothing.
    """

    def __call__(self, key: PRNGKeyArray, batch: Batch, /) -> tuple[Tree, Tree]: ...


@runtime_checkable
class Loss(Protocol):
    """(scalar, Aux) of a batch, whose key is consumed; evaluation keeps the state."""

    def __call__(
        self,
        params: Tree,
        state: Tree,
        batch: Batch,
        key: PRNGKeyArray,
        /,
        *,
        train: bool,
    ) -> tuple[Array, Aux]: ...


@runtime_checkable
class Predict(Protocol):
    """A batch's predictions, without randomness; "y" is not read."""

    def __call__(self, params: Tree, state: Tree, batch: Batch, /) -> Array: ...


@runtime_checkable
class Classes(Protocol):
    """How many classes "y" has, from shapes alone; None where "y" is no label."""

    def __call__(self, params: Tree, state: Tree, batch: Shapes, /) -> int | None: ...


class Trained(NamedTuple):
    """What is predicted with: parameters and the model state that belongs to them."""

    params: Any  # what the optimizer changes
    model: Any  # what the model itself changes (batch statistics); {} if nothing


class Task(NamedTuple):
    """A model and its objective as pure functions; all that training needs to know.

    init(key, batch) -> (params, state)
    loss(params, state, batch, key, *, train) -> (scalar, Aux)
    predict(params, state, batch) -> predictions; None where that has no meaning
    classes(params, state, batch) -> number of classes; None where "y" is no label
    ids: of what each column of an integer "x" [B, F] names, how many there are
    check(rows): raises UsageError for values, arrays on the host, that it cannot learn
    together: whether the loss is of a batch as a whole, as where it compares examples,
        or the gradients of tasks: the mean of its parts would be another
    """

    init: Init
    loss: Loss
    predict: Predict | None = None
    classes: Classes | None = None
    ids: tuple[int, ...] | None = None
    check: Callable[[Shapes], None] | None = None
    together: bool = False


def parted(variables: Tree) -> tuple[Tree, Tree]:
    """A Linen module's variables -> (params, state)."""
    state = dict(variables)
    return state.pop("params"), state


def known(classes: int) -> Classes | None:
    """`Task.classes` of a model that knows the number; None for 0."""

    def count(params, state, batch):
        return classes

    return count if classes else None


def apply(
    model: Model,
    params: Tree,
    state: Tree,
    *inputs: Any,
    key: PRNGKeyArray | None = None,
    train: bool = False,
) -> tuple[Any, Tree]:
    """model(*inputs, train=...) -> (outputs, the model's state after them).

    `key` is for dropout. The state changes in training alone.
    """
    outputs, new = model.apply(
        {"params": params, **state},
        *inputs,
        train=train,
        rngs={} if key is None else {"dropout": key},
        mutable=list(state) if train else [],
    )
    return outputs, {**state, **new}


def judged(
    values: dict[str, Array], mask: Array | None, state: Tree
) -> tuple[Array, Aux]:
    """What a loss returns, of values [B] or [B, T] by name: the mean of "loss", Aux."""
    metrics = means(values, mask)
    return metrics["loss"].value(), Aux(metrics, state)


def is_weight(params: Any) -> Any:
    """Which parameters weight decay and penalties shrink: a tree of True and False.

    Those with two or more axes whose name says no bias, scale or peephole: the vectors
    of layers that a scan has stacked have two axes too.
    """

    def weighs(path, leaf):
        name = str(getattr(path[-1], "key", path[-1])) if path else ""
        return leaf.ndim > 1 and not name.endswith(("bias", "scale", "peephole"))

    return jax.tree_util.tree_map_with_path(weighs, params)


def is_zero(value: Any) -> bool:
    """Whether a strength is 0 for certain, so that what it scales may be left out."""
    return concrete(value) and bool(value == 0)


def count_parameters(params: Any) -> int:
    """The number of scalars in a tree of arrays or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def float32(x: Shaped[Array, "*S"]) -> Shaped[Array, "*S"]:
    """x in float32 at least: a loss of bfloat16 would lose what it adds."""
    return x.astype(jnp.promote_types(x.dtype, "float32"))


def entries(length: Lengths, values: Shaped[Array, "B T ..."]) -> Bool[Array, "B T"]:
    """Which of the values of sequences are no padding."""
    return jnp.arange(values.shape[1]).reshape(1, -1) < length.reshape(-1, 1)
