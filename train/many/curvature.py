"""How a loss curves: products with its Hessian, their trace and largest eigenvalues.

Shapes: N rows, P parameters.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from train.evaluate import make_eval
from train.step import State, Trained
from zoo.base import Batch, Task, UsageError, check_int
from zoo.types import Array, Tree

SINGULAR = 1e-6  # of the largest eigenvalue: what float32 cannot tell from 0

Product = Callable[[Tree], Tree]
"""v -> Hv for a symmetric matrix H: from a tree like the parameters to another."""


def curvature(f: Callable[[Tree], Array], at: Tree) -> Product:
    """v -> Hv for the Hessian of a function of a tree, at one.

    Pearlmutter, "Fast exact multiplication by the Hessian", 1994.
    """
    return lambda v: jax.jvp(jax.grad(f), (at,), (v,))[1]


def hessian_vector(
    task: Task, trained: Trained | State, rows: Batch, seed: int | Array = 0
) -> Product:
    """v -> Hv for the Hessian of the mean loss of rows in evaluation: no penalty."""
    evaluate = make_eval(task)

    def loss(params):
        return evaluate(Trained(params, trained.model), rows, seed)["loss"].value()

    return curvature(loss, trained.params)


def trace(
    product: Product, params: Tree, *, samples: int = 100, seed: int | Array = 0
) -> tuple[Array, Array]:
    """The trace of v -> Hv, estimated by random signs, and its standard error.

    Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990.
    Raises UsageError for fewer than two samples.
    """
    check_int("samples", samples, 2)
    w, restore = ravel_pytree(params)

    def draw(key):
        v = jax.random.rademacher(key, w.shape, w.dtype)
        return v @ ravel_pytree(product(restore(v)))[0]

    found = jax.lax.map(draw, jax.random.split(jax.random.key(seed), samples))
    return found.mean(), found.std(ddof=1) / samples**0.5


def largest(
    product: Product,
    params: Tree,
    n: int = 1,
    *,
    steps: int | None = None,
    seed: int | Array = 0,
) -> tuple[Array, Array]:
    """The n largest eigenvalues [n] of v -> Hv, in descending order; bounds [n].

    Within each bound of a value there is an eigenvalue. Lanczos, 1950, made orthogonal
    to all before at each step, twice; `steps` (10 n + 40, at most P) make the bounds
    smaller. Raises UsageError for n not in [1, steps], or steps not in [n, P].
    """
    w, restore = ravel_pytree(params)
    steps = min(10 * n + 40, w.size) if steps is None else steps
    check_int("steps", steps, 1), check_int("n", n, 1)
    if not n <= steps <= w.size:
        raise UsageError(f"expected n <= steps <= {w.size}, found {n} and {steps}")

    def beside(v, basis):
        for _ in range(2):
            v = v - (basis @ v) @ basis
        return v

    def step(carry, at):
        basis, most = carry
        k, key = at
        v = ravel_pytree(product(restore(basis[k])))[0]
        own, most = basis[k] @ v, jnp.maximum(most, jnp.linalg.norm(v))
        v = beside(v, basis)
        size = jnp.linalg.norm(v)
        # all that the first vector leads to is found: go on from another
        over = size <= 10 * SINGULAR * most
        v = jnp.where(over, beside(jax.random.normal(key, w.shape), basis), v)
        v = beside(v / jnp.linalg.norm(v), basis)
        basis = basis.at[k + 1].set(v / jnp.linalg.norm(v))
        return (basis, most), (own, jnp.where(over, 0, size))

    first, *keys = jax.random.split(jax.random.key(seed), steps + 1)
    v = jax.random.normal(first, w.shape)
    basis = jnp.zeros((steps + 1, w.size)).at[0].set(v / jnp.linalg.norm(v))
    at = jnp.arange(steps), jnp.stack(keys)
    _, (own, sizes) = jax.lax.scan(step, (basis, jnp.zeros(())), at)
    between = jnp.diag(sizes[:-1], 1)
    values, vectors = jnp.linalg.eigh(jnp.diag(own) + between + between.T)
    return values[::-1][:n], (sizes[-1] * jnp.abs(vectors[-1]))[::-1][:n]
