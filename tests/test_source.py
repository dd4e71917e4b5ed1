"""Batches: fair orders, each step alone, what sources are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from train import loop, mesh, optim, source
from train import step as one
from zoo import linear, mlp, rnn, supervised
from zoo.base import Aux, Mean, Task, UsageError

N = 50


def rows(n, width=3):
    x = np.random.default_rng(0).normal(size=(n, width)).astype(np.float32)
    return {"x": x, "y": x[:, 0] - 2 * x[:, 1]}


def numbered(n):
    return {"x": np.arange(n)}


def drawn(found, steps, seed=0):
    """What the steps read, each asked for alone in one program: a dict [steps, ...]."""

    def batch(t):
        return found.batch(found.arrays, jnp.uint32(seed), t)

    return jax.device_get(jax.jit(jax.vmap(batch))(jnp.asarray(steps, jnp.int32)))


# Orders -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100, 4000, 54321])
def test_an_order_is_a_permutation(n):
    keys = jnp.uint32([[5, 6]])
    found = np.asarray(source.shuffled(keys, jnp.arange(n), n))
    np.testing.assert_array_equal(np.sort(found), np.arange(n))
    assert n < 4 or (found != np.arange(n)).any()


def test_no_order_of_more_rows_than_numbers():
    for n in (0, 2**31):
        with pytest.raises(UsageError, match=f"1 to 2147483647 rows.*found {n}"):
            source.shuffled(jnp.uint32([[5, 6]]), jnp.arange(3), n)
        with pytest.raises(UsageError, match=f"found {n}"):
            source.locate(0, 3, n)


def p_values(rounds):
    """Of tests that 20,000 orders, of neighbouring seeds and epochs, are uniform."""

    def orders(seed, epoch):
        words = jax.random.key_data(source.stream(seed, "order", epoch))[None]
        return source.shuffled(words, jnp.arange(N), N, rounds=rounds)

    every = jax.jit(jax.vmap(jax.vmap(orders, (None, 0)), (0, None)))
    found = np.asarray(every(jnp.arange(100), jnp.arange(200))).reshape(-1, N)
    each = len(found) / N
    counts = np.stack([np.bincount(column, minlength=N) for column in found.T])
    steps = np.bincount(((found[:, 1:] - found[:, :-1]) % N).ravel(), minlength=N)[1:]
    pairs = np.zeros((N, N))
    np.add.at(pairs, (found[:, 0], found[:, 1]), 1)
    fixed = np.bincount((found == np.arange(N)).sum(1), minlength=9)[:9]
    poisson = np.append(stats.poisson.pmf(np.arange(8), 1), stats.poisson.sf(7, 1))
    fixed[8] += len(found) - fixed.sum()
    return {
        "places": stats.chi2.sf(((counts - each) ** 2 / each).sum(), (N - 1) ** 2),
        "successors": stats.chisquare(steps).pvalue,
        "first pairs": stats.chisquare(pairs[~np.eye(N, dtype=bool)]).pvalue,
        "fixed points": stats.chisquare(fixed, len(found) * poisson).pvalue,
    }


def test_orders_are_uniform():
    assert min(p_values(source.ROUNDS).values()) > 1e-3
    # what the tests can see: a third of a swap fewer for each pair
    assert min(p_values(4).values()) < 1e-9


@pytest.mark.parametrize(
    "n, size", [(1347, 32), (7, 32), (10_000_000, 512), (2**31 - 1, 4096), (1, 3)]
)
def test_a_step_is_located_exactly(n, size):
    steps = np.append(np.random.default_rng(1).integers(0, 2**31, 500), [0, 2**31 - 1])
    found = jax.jit(jax.vmap(lambda t: source.locate(t, size, n)))(steps)
    exact = [divmod(int(t) * size, n) for t in steps]
    np.testing.assert_array_equal(found[0], [epoch % 2**32 for epoch, _ in exact])
    np.testing.assert_array_equal(found[1], [at for _, at in exact])


@pytest.mark.parametrize("first", [0, 2**32 // 32 - 50])
def test_every_epoch_is_a_permutation_also_past_position_2_to_the_32(first):
    n, size, steps = 1347, 32, np.arange(first, first + 200)
    got = drawn(source.examples(numbered(n), size), steps, 3)["x"].ravel()
    epoch = ((steps[:, None] * size + np.arange(size)) // n).ravel()
    whole = [k for k in np.unique(epoch) if (epoch == k).sum() == n]
    assert len(whole) >= 3
    for k in whole:
        np.testing.assert_array_equal(np.sort(got[epoch == k]), np.arange(n))
    assert (got[epoch == whole[0]] != got[epoch == whole[1]]).any()


@pytest.mark.parametrize("n, size", [(10, 4), (7, 1), (3, 2), (11, 9), (5, 12)])
def test_batches_run_over_the_seams_of_epochs(n, size):
    got = drawn(source.examples(numbered(n), size), range(4 * n))["x"].ravel()
    for epoch in got.reshape(-1, n):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))


def test_no_two_epochs_of_neighbouring_seeds_share_an_order():
    def orders(seed):
        return jax.vmap(lambda t: source.order(seed, t, N, N))(jnp.arange(100))

    found = np.asarray(jax.jit(jax.vmap(orders))(jnp.arange(20))).reshape(-1, N)
    assert len(np.unique(found, axis=0)) == 2000
    # what the test can see: seed and epoch added, not hashed
    added = np.asarray(
        jax.vmap(lambda s, e: source.order(s + e, 0, N, N))(
            *map(jnp.ravel, jnp.meshgrid(jnp.arange(20), jnp.arange(100)))
        )
    )
    assert len(np.unique(added, axis=0)) == 119


def test_streams_of_keys_have_names_and_never_collide_with_the_steps():
    # a step's key is fold_in(key, t) with t an int32
    assert min(source.STREAMS.values()) > np.iinfo(np.int32).max
    assert len(set(source.STREAMS.values())) == len(source.STREAMS)
    words = [jax.random.key_data(source.stream(3, name, 5)) for name in source.STREAMS]
    assert len({tuple(map(int, word)) for word in words}) == len(words)


# Combinators --------------------------------------------------------------------------


def recorder():
    """A task whose state is the sum of what it has read, in order."""

    def init(key, batch):
        return {"w": jnp.zeros(())}, {"seen": jnp.zeros((), jnp.uint32)}

    def loss(params, state, batch, key, *, train):
        leaves = jax.tree.leaves(batch)
        words = [jnp.sum(jnp.round(a * 64.0).astype(int)) for a in leaves]  # exact
        seen = state["seen"] * 31 + sum(words).astype(jnp.uint32)
        return params["w"] ** 2, Aux({"loss": Mean.of(params["w"])}, {"seen": seen})

    return Task(init, loss)


def noisy(key, batch):
    return batch | {"x": batch["x"] + jax.random.normal(key, batch["x"].shape)}


TOKENS = np.random.default_rng(2).integers(0, 9, 60).astype(np.uint8)
INDEX = np.array([1, 3, 5, 7, 9, 11, 13, 3, 3])
SOURCES = {
    "examples": source.examples(rows(10), 4),
    "full": source.full(rows(10)),
    "rows": source.rows(rows(20), INDEX, 4),
    "windows": source.windows(TOKENS, 6, 4, every=3),
    "pair": source.pair(source.examples(rows(6), 8), source.examples(rows(10), 4)),
    "augmented": source.augmented(source.examples(rows(10), 4), noisy),
    "standardized": source.standardized(source.rows(rows(20), INDEX, 4)),
}


@pytest.mark.parametrize("name", SOURCES)
def test_steps_asked_for_alone_are_those_of_a_training(name):
    found, task = SOURCES[name], recorder()
    ways = [
        loop.fit(
            task, optim.optimizer("sgd", 0.1), found, steps=13, log_every=every, seed=4,
            progress=False,
        ).state.model["seen"]
        for every in (3, 13)
    ]  # fmt: skip
    state = {"seen": jnp.zeros((), jnp.uint32)}
    ask = jax.jit(lambda t: found.batch(found.arrays, jnp.uint32(4), t))
    for batch in [ask(t) for t in reversed(range(13))][::-1]:
        state = task.loss({"w": jnp.zeros(())}, state, batch, None, train=True)[1].state
    assert ways[0] == ways[1] == state["seen"]


def test_full_is_every_row_in_its_place():
    arrays = rows(10)
    for found in (source.full(arrays), source.examples(arrays, 10)):
        batch = drawn(found, [0, 5])
        np.testing.assert_array_equal(batch["x"], [arrays["x"]] * 2)
        assert (found.size, found.rows) == (10, 10)


def test_rows_of_an_index_are_read_as_often_as_it_has_them():
    got = drawn(source.rows(numbered(20), INDEX, 4), range(9))["x"]
    for epoch in got.reshape(-1, 9):
        np.testing.assert_array_equal(np.sort(epoch), np.sort(INDEX))


@pytest.mark.parametrize("index", [[0, 20], [-1, 3], []])
def test_an_index_of_no_row_is_refused(index):
    with pytest.raises(UsageError, match="expected an index of 20 rows"):
        source.rows(numbered(20), index, None)


def test_folds_are_trained_under_vmap():
    arrays = rows(24)
    folds = np.stack([np.delete(np.arange(24), range(k, 24, 3)) for k in range(3)])
    task, optimizer = linear.regression(), optim.optimizer("sgd", 0.1)
    update = one.make_step(task, optimizer)

    def train(index, seed):
        found = source.standardized(source.rows(arrays, index, 5))
        batch = found.batch(found.arrays, seed, 0)
        state = one.init(task, optimizer, seed, batch)

        def run(state, t):
            return update(state, found.batch(found.arrays, state.seed, t))

        return jax.lax.scan(run, state, jnp.arange(20))[0].params, found.arrays.mean

    seeds = jnp.arange(3, dtype=jnp.uint32)
    many = jax.jit(jax.vmap(train))(jnp.asarray(folds), seeds)
    for k, fold in enumerate(folds):
        own = {name: a[fold] for name, a in arrays.items()}
        np.testing.assert_allclose(many[1]["x"][k], own["x"].mean(0), atol=1e-6)
        scale = own["x"].std(0)
        own["x"] = (own["x"] - own["x"].mean(0)) / scale
        alone = loop.fit(
            task, optimizer, source.examples(own, 5), steps=20, seed=k, progress=False
        )
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-5),
            many[0],
            alone.state.params,
        )


def test_a_source_is_standardized_by_its_own_rows_alone():
    arrays = rows(20)
    arrays["x"][:, 2] = 7.0  # never changes
    index = np.arange(8)
    arrays["x"][8:] = 1e6  # what it does not read
    found = source.standardized(source.rows(arrays, index, None))
    x = drawn(found, [0])["x"][0]
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(0), [1, 1, 0], atol=1e-5)
    with pytest.raises(UsageError, match="rows in memory to standardize"):
        source.standardized(SOURCES["pair"])


@pytest.mark.parametrize("every", [1, 3])
def test_windows_are_those_that_were_cut(every):
    copies = np.stack([TOKENS[i : i + 7] for i in range(0, 60 - 6, every)])
    cut = source.examples({"x": copies[:, :-1], "y": copies[:, 1:]}, 4)
    found = source.windows(TOKENS, 6, 4, every=every)
    assert found.rows == len(copies) and found.arrays is TOKENS
    a, b = (drawn(s, range(40), 8) for s in (cut, found))
    for name in ("x", "y"):
        np.testing.assert_array_equal(a[name], b[name])
        assert b[name].dtype == np.int32
    with pytest.raises(UsageError, match=r"tokens \[N\], 60 < N < 2\^31, found \(60,"):
        source.windows(TOKENS, 60, 4)


@pytest.mark.parametrize("at", [0, 30, 59])
def test_every_token_of_windows_is_checked(at):
    model = rnn.LanguageModel(9, rnn.RNN(rnn.ELMAN, 3), 2)
    task = supervised.task(model, supervised.classes)
    tokens = TOKENS.copy()
    tokens[at] = 9
    with pytest.raises(UsageError, match="found 9 in example|labels 0 to 8 .*found 9"):
        loop.fit(
            task, optim.optimizer("sgd", 0.1), source.windows(tokens, 7, 4), steps=1
        )


def test_a_pair_has_an_order_for_each():
    few, many = source.examples(numbered(6), 8), source.examples(numbered(10), 4)
    found = source.pair(few, many, lambda a, b: {"x": b["x"], "labelled": a["x"]})
    assert (found.size, found.rows) == (8, 10)  # of the larger, which has an epoch
    got = drawn(found, range(30))
    for name, n in (("labelled", 6), ("x", 10)):
        for epoch in got[name].reshape(-1, n):
            np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    # not in step with each other, where they are as many
    same = source.examples(numbered(10), 4)
    got = drawn(
        source.pair(same, same, lambda a, b: {"x": a["x"], "z": b["x"]}), [0, 1]
    )
    assert (got["x"] != got["z"]).any()


def test_a_pair_is_joined_as_the_semi_supervised_game_reads_it():
    batch = drawn(SOURCES["pair"], [0])
    assert {k: a.shape[1:] for k, a in batch.items()} == {
        "x": (4, 3),
        "labelled": (8, 3),
        "y": (8,),
    }


def test_augmentation_follows_from_seed_and_step():
    plain, changed = SOURCES["examples"], SOURCES["augmented"]
    noise = drawn(changed, range(4))["x"] - drawn(plain, range(4))["x"]
    key = source.stream(0, "augmentation", 2)
    np.testing.assert_allclose(noise[2], jax.random.normal(key, (4, 3)), atol=1e-5)
    assert source.augmented(plain, None) is plain


def test_a_model_that_makes_its_own_data_needs_none():
    def init(key, batch):
        return {"w": jnp.zeros(())}, {}

    def loss(params, state, batch, key, *, train):
        assert list(batch) == ["step"]
        value = (params["w"] - jax.random.normal(key)) ** 2
        return value, Aux({"loss": Mean.of(value)}, state)

    done = loop.fit(
        Task(init, loss),
        optim.optimizer("sgd", 0.01),
        source.nothing(8),
        steps=50,
        progress=False,
    )
    assert done.ended == "finished" and abs(done.trained.params["w"]) < 1


@pytest.mark.parametrize(
    "arrays, words",
    [
        ({"y": np.zeros(3)}, 'with "x", found'),
        ([1, 2], "found list"),
        ({"x": np.zeros((0, 3))}, "empty"),
        ({"x": np.zeros(3), "y": np.zeros(2)}, "3 entries in 'y'"),
    ],
)
def test_what_are_no_rows_is_refused(arrays, words):
    for make in (
        lambda: source.examples(arrays, 2),
        lambda: source.full(arrays),
        lambda: source.rows(arrays, np.arange(2), 1),
    ):
        with pytest.raises(UsageError, match=words):
            make()


def test_the_arrays_are_no_constants_of_the_program():
    found = source.examples(rows(5000, 20), 4)
    text = jax.jit(found.batch).lower(found.arrays, jnp.uint32(0), 0).as_text()
    assert len(text) < 50_000


@pytest.mark.parametrize("name", ["windows", "pair"])
def test_two_devices_read_the_same_batches(name):
    found, ways = SOURCES[name], []
    for place in (None, mesh.data_parallel(2)):
        done = loop.fit(
            recorder(), optim.optimizer("sgd", 0.1), found, steps=7, progress=False,
            mesh=place,
        )  # fmt: skip
        ways.append(int(done.state.model["seen"]))
    assert ways[0] == ways[1]


def test_a_training_is_resumed_within_an_epoch(tmp_path):
    task = supervised.task(mlp.MLP(1, (5,)), supervised.regression)
    found = source.augmented(source.examples(rows(10), 4), noisy)

    def train(steps, **options):
        return loop.fit(
            task, optim.optimizer("adam", 0.1), found, steps=steps, progress=False,
            **options,
        ).state  # fmt: skip

    train(4, checkpoints=tmp_path)
    resumed = train(9, checkpoints=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed, train(9))
