"""Rows in fewer numbers: principal components, those of a kernel, independent ones.

PCA: Pearson, "On lines and planes of closest fit to systems of points in space", 1901;
part by part: Ross et al., "Incremental learning for robust visual tracking", 2008; by
gradient, in order: Rippel, Gelbart & Adams, "Learning ordered representations with
nested dropout", 2014, arXiv:1402.0915. Kernel PCA: Schölkopf, Smola & Müller,
"Nonlinear component analysis as a kernel eigenvalue problem", 1998. ICA: Hyvärinen &
Oja, "Independent component analysis: algorithms and applications", 2000.

Signs are chosen as scikit-learn does: of a component, the largest entry is positive.
Shapes: N rows, D features, K components, M other rows, B rows of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, PRNGKeyArray, Shaped

from zoo.base import Aux, Task, UsageError, check_choice, concrete, means
from zoo.checks import check_inputs, check_int
from zoo.types import Array, Number


class Components(NamedTuple):
    """Axes of unit length that are orthogonal, those of the most variance first."""

    mean: Float[Array, "D"]
    axes: Float[Array, "K D"]
    variance: Float[Array, "K"]  # along each, of N - 1
    rows: Float[Array, ""]  # that were seen


def check_components(components: int, most: int, of: str) -> int:
    """The number of components, from 1 to the most there are. Raises UsageError."""
    check_int("components", components, 1)
    if components > most:
        raise UsageError(
            f"expected at most {most} components of {of}, found {components}"
        )
    return components


def _by_sign(columns):
    """1 or -1 for each column [N, K], whose largest entry it makes positive."""
    largest = jnp.argmax(jnp.abs(columns), 0)[None]
    return jnp.where(jnp.take_along_axis(columns, largest, 0)[0] < 0, -1.0, 1.0)


def pca(x: Shaped[Array, "N D"], components: int) -> Components:
    """Principal components, by a singular value decomposition.

    Raises UsageError for integers, and for more components than rows or features.
    """
    check_inputs(x, "N D")
    check_components(components, min(x.shape), f"{len(x)} rows [{x.shape[1]}]")
    return more(nothing(components, x.shape[1], x.dtype), x)


def nothing(components: int, features: int, dtype=jnp.float32) -> Components:
    """Components of no rows yet: what `more` begins with."""
    check_components(components, features, f"{features} features")
    return Components(
        jnp.zeros(features, dtype),
        jnp.zeros((components, features), dtype),
        jnp.zeros(components, dtype),
        jnp.zeros((), dtype),
    )


def more(known: Components, x: Shaped[Array, "N D"]) -> Components:
    """Components of what was seen and of more rows: incremental PCA.

    What earlier rows had beside their K components is forgotten (Ross et al. 2008,
    section 3.3), so those of all rows at once are a little better. Raises UsageError
    for integers, other features, and for fewer rows in all than components.
    """
    check_inputs(x, "N D")
    old, (n, features) = known.rows, x.shape
    components = len(known.axes)
    if features != len(known.mean):
        raise UsageError(f"expected {len(known.mean)} features, found {features}")
    if n == 0 or (concrete(old) and old + n < components):
        raise UsageError(
            f"expected {components} rows or more for as many components, found {n}"
        )
    count = old + n
    here = x.mean(0)
    parts = [
        jnp.sqrt(known.variance * jnp.maximum(old - 1, 0))[:, None] * known.axes,
        x - here[None],
        (jnp.sqrt(old / count * n) * (known.mean - here))[None],
    ]
    _, size, axes = jnp.linalg.svd(jnp.concatenate(parts), full_matrices=False)
    axes = axes[:components]
    return Components(
        known.mean + (here - known.mean) * (n / count),
        axes * _by_sign(axes.T)[:, None],
        jnp.square(size[:components]) / jnp.maximum(count - 1, 1),
        count,
    )


def project(found: Components, x: Float[Array, "N D"]) -> Float[Array, "N K"]:
    """Rows by their places along the axes."""
    return (x - found.mean[None]) @ found.axes.T


def restore(found: Components, z: Float[Array, "N K"]) -> Float[Array, "N D"]:
    """The rows that lie at these places along the axes."""
    return z @ found.axes + found.mean[None]


# By gradient --------------------------------------------------------------------------


def task(components: int) -> Task:
    """Principal components as the minimum of a loss, of "x" [B, ...].

    With z = W (x - m), "loss" is |x - m - W^T z|^2. The objective is its mean over the
    first 0, 1, ..., K rows of W alone, which has the one minimum (but for signs) where
    m is the mean, and W the components in their order: each count of them is then as
    good as it can be. Without that they would be turned in any way.
    """
    check_int("components", components, 1)

    def init(key, batch):
        x = _flat(batch["x"])
        check_components(components, x.shape[1], f"{x.shape[1]} features")
        axes = jax.random.normal(key, (components, x.shape[1]), x.dtype)
        axes = axes / x.shape[1] ** 0.5
        return {"mean": jnp.zeros(x.shape[1], x.dtype), "axes": axes}, {}

    def loss(params, state, batch, key, *, train):
        x = _flat(batch["x"]) - params["mean"][None]
        axes = params["axes"]
        z, gram = x @ axes.T, axes @ axes.T
        size = jnp.square(x).sum(-1)

        def error(weight):
            """|x|^2 - 2 sum_a w_a z_a^2 + sum_ab w_max(a,b) z_a z_b (W W^T)_ab."""
            later = jnp.maximum(*jnp.indices(gram.shape))
            both = jnp.vecdot(z @ (gram * weight[later]), z)
            return size - 2 * jnp.square(z) @ weight + both

        # component a counts in K - a of the K + 1
        share = 1 - (1 + jnp.arange(components)) / (components + 1)
        values = {"loss": error(jnp.ones(components))}
        if train:
            values["objective"] = error(share)
        metrics = means(values, batch.get("mask"))
        name = "objective" if train else "loss"
        return metrics[name].value(), Aux(metrics, state)

    return Task(init, loss)


def _flat(x):
    return check_inputs(x).reshape(x.shape[0], -1)


# By kernels ---------------------------------------------------------------------------

Kernel = Callable[[Array, Array], Array]
"""(x [N, D], y [M, D]) -> [N, M]"""


def kernel(
    name: str, *, gamma: Number = 1.0, degree: Number = 3, bias: Number = 1.0
) -> Kernel:
    """ "linear" x y, "rbf" exp(-gamma |x - y|^2), "poly" (gamma x y + bias)^degree.

    A function of x [N, D] and y [M, D] that gives [N, M]. Raises UsageError for
    another name.
    """
    check_choice("kernel", name, ("linear", "rbf", "poly"))

    def linear(x, y):
        return x @ y.T

    def rbf(x, y):
        apart = jax.vmap(lambda row: jnp.square(y - row[None]).sum(-1))(x)
        return jnp.exp(-gamma * apart)

    def poly(x, y):
        return (gamma * x @ y.T + bias) ** degree

    return {"linear": linear, "rbf": rbf, "poly": poly}[name]


class KernelComponents(NamedTuple):
    """Components in the space that a kernel is the product of."""

    x: Float[Array, "N D"]  # all rows: axes are sums of their images
    weights: Float[Array, "N K"]
    variance: Float[Array, "K"]  # along each, times N
    means: Float[Array, "N"]  # of the kernel with each row


def kernel_pca(
    x: Shaped[Array, "N D"], components: int, kernel: Kernel
) -> KernelComponents:
    """Principal components of what the kernel makes of rows (section 3).

    Raises UsageError for integers, and for more components than rows.
    """
    check_inputs(x, "N D")
    check_components(components, len(x), f"{len(x)} rows")
    products = kernel(x, x)
    average = products.mean(0)
    centred = products - average[None] - average[:, None] + average.mean()
    variance, vectors = jnp.linalg.eigh(centred)
    variance = jnp.maximum(variance[::-1][:components], 0)
    vectors = vectors[:, ::-1][:, :components]
    vectors = vectors * _by_sign(vectors)[None]
    # what has no variance but for rounding has no axis
    real = variance > len(x) * jnp.finfo(x.dtype).eps * variance[0]
    size = jnp.where(real, jnp.sqrt(jnp.where(real, variance, 1)), jnp.inf)
    return KernelComponents(x, vectors / size[None], variance, average)


def kernel_project(
    found: KernelComponents, x: Float[Array, "M D"], kernel: Kernel
) -> Float[Array, "M K"]:
    """Rows, those that were learned from or others, by their places along the axes."""
    products = kernel(x, found.x)
    products = products - products.mean(1, keepdims=True) - found.means[None]
    return (products + found.means.mean()) @ found.weights


# Independent --------------------------------------------------------------------------


class Sources(NamedTuple):
    """Independent components: sources are (x - mean) unmixing^T, of variance 1."""

    mean: Float[Array, "D"]
    unmixing: Float[Array, "K D"]
    mixing: Float[Array, "D K"]  # x = sources mixing^T + mean
    steps: Float[Array, ""]


def ica(
    key: PRNGKeyArray,
    x: Shaped[Array, "N D"],
    components: int,
    *,
    tolerance: Number = 1e-4,
    most: int = 200,
) -> Sources:
    """FastICA: all components at once, of log cosh (section 6.2), in any order.

    It ends where every direction's cosine with that before it is 1 to the tolerance.
    Raises UsageError for integers, and for more components than rows or features.
    """
    found = pca(x, components)
    white = found.axes / jnp.sqrt(found.variance)[:, None]
    z = (x - found.mean[None]) @ white.T

    def apart(w):
        """The nearest matrix of orthogonal rows: (W W^T)^-1/2 W (equation 45)."""
        u, _, v = jnp.linalg.svd(w, full_matrices=False)
        return u @ v

    def going(carry):
        _, step, change = carry
        return (step < most) & (change > tolerance)

    def move(carry):
        w, step, _ = carry
        g = jnp.tanh(z @ w.T)
        slope = (1 - jnp.square(g)).mean(0)
        new = apart(g.T @ z / len(z) - slope[:, None] * w)  # equation 41
        return new, step + 1, jnp.abs(jnp.abs(jnp.vecdot(new, w)) - 1).max()

    begin = apart(jax.random.normal(key, (components, components), x.dtype))
    carry = (begin, jnp.int32(0), jnp.asarray(jnp.inf, x.dtype))
    w, step, _ = jax.lax.while_loop(going, move, carry)
    unmixing = w @ white
    # pinv: W is orthogonal, and so are the axes
    mixing = (found.axes * jnp.sqrt(found.variance)[:, None]).T @ w.T
    scale = ((x - found.mean[None]) @ unmixing.T).std(0)
    return Sources(found.mean, unmixing / scale[:, None], mixing * scale[None], step)
