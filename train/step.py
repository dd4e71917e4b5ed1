"""The one training step. It knows optax and Task; it knows no model."""

from functools import partial
from typing import Any, NamedTuple

import jax
import optax

from train.optim import in_parts, moved
from train.shown.html import state_as_html
from zoo.base import Batch, Mean, Task, masked
from zoo.base import Trained as Trained


class State(NamedTuple):
    """Everything that training changes; saving it is enough to resume exactly."""

    step: jax.Array  # int32 scalar: updates applied so far
    params: Any
    model: Any
    optimizer: optax.OptState
    seed: jax.Array  # uint32 scalar: update t draws from fold_in(key(seed), t)
    average: Trained | None = None  # a moving average of both, if one is kept

    def _repr_html_(self) -> str:
        return state_as_html(self)


def init(task: Task, optimizer, seed, batch: Batch, *, average=False) -> State:
    """A fresh state at step 0, strongly typed; `batch` supplies shapes and dtypes."""
    step, seed = jax.numpy.int32(0), jax.numpy.uint32(seed)
    new = Trained(*task.init(_key(seed, step), batch))
    state = State(step, *new, optimizer.init(new[0]), seed, new if average else None)
    return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), state)


def make_step(task: Task, optimizer, *, ema=None, parts=1):
    """step(state, batch) -> (state, metrics): pure; jit, vmap or scan it yourself."""
    update = optax.with_extra_args_support(optimizer).update
    loss = partial(task.loss, train=True)
    gradient = in_parts(jax.value_and_grad(loss, has_aux=True), parts)

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Mean]]:
        key, batch = _key(state.seed, state.step + 1), masked(batch, state.model)
        rest = state.model, batch, key
        (value, aux), grad = gradient(state.params, *rest)
        search = {"value": value, "grad": grad, "value_fn": lambda p: loss(p, *rest)[0]}
        updates, opt = update(grad, state.optimizer, state.params, **search)
        new = Trained(optax.apply_updates(state.params, updates), aux.state)
        mean = None if ema is None else moved(state.average, new, state.step, ema)
        metrics = {**aux.metrics, "grad_norm": Mean.of(optax.tree.norm(grad))}
        return State(state.step + 1, *new, opt, state.seed, mean), metrics

    return step


def _key(seed, step):
    return jax.random.fold_in(jax.random.key(seed), step)
