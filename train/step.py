"""The one training step. It knows optax and Task; it knows no model."""

from typing import Any, NamedTuple

import jax
import optax

from zoo.base import Batch, Mean, Task


class State(NamedTuple):
    """Everything that training changes; saving it is enough to resume exactly."""

    step: jax.Array  # int32 scalar: updates applied so far
    params: Any  # what the optimizer changes
    model: Any  # what the model itself changes (batch statistics); {} if nothing
    optimizer: optax.OptState
    seed: jax.Array  # uint32 scalar: update t draws from fold_in(key(seed), t)


def init(task: Task, optimizer, seed, batch: Batch) -> State:
    """A fresh state at step 0, strongly typed; `batch` supplies shapes and dtypes."""
    step, seed = jax.numpy.int32(0), jax.numpy.uint32(seed)
    params, model = task.init(_key(seed, step), batch)
    state = State(step, params, model, optimizer.init(params), seed)
    return jax.tree.map(lambda a: jax.lax.convert_element_type(a, a.dtype), state)


def make_step(task: Task, optimizer):
    """step(state, batch) -> (state, metrics): pure; jit, vmap or scan it yourself."""
    update = optax.with_extra_args_support(optimizer).update

    def step(state: State, batch: Batch) -> tuple[State, dict[str, Mean]]:
        key = _key(state.seed, state.step + 1)

        def loss(params):
            return task.loss(params, state.model, batch, key, train=True)

        (value, aux), grad = jax.value_and_grad(loss, has_aux=True)(state.params)
        line_search = {"value": value, "grad": grad, "value_fn": lambda p: loss(p)[0]}
        updates, opt = update(grad, state.optimizer, state.params, **line_search)
        params = optax.apply_updates(state.params, updates)
        metrics = {**aux.metrics, "grad_norm": Mean.of(optax.tree.norm(grad))}
        return State(state.step + 1, params, aux.state, opt, state.seed), metrics

    return step


def make_eval(task: Task):
    """evaluate(state, batch) -> metrics, in evaluation mode; the state is unchanged."""

    def evaluate(state: State, batch: Batch) -> dict[str, Mean]:
        key = _key(state.seed, state.step)
        return task.loss(state.params, state.model, batch, key, train=False)[1].metrics

    return evaluate


def _key(seed, step):
    return jax.random.fold_in(jax.random.key(seed), step)
