"""CTC against every path of short sequences: probabilities, decoding, alignment."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoo import ctc
from zoo.base import UsageError

T, K = 5, 3
PATHS = list(itertools.product(range(K), repeat=T))


def logits(seed, *shape):
    return 1.5 * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def meant(path):
    """Without repetitions, then without blanks."""
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)


def log_softmax(x):
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def texts_of(log_p, meaning=meant):
    """The probability of each text of log p [T, K], summed over all paths."""
    found = {}
    for path in itertools.product(range(log_p.shape[1]), repeat=len(log_p)):
        p = np.exp(sum(log_p[t, token] for t, token in enumerate(path)))
        text = meaning(path)
        found[text] = found.get(text, 0.0) + p
    return found


def filled(text, size):
    return np.array([*text, *[0] * (size - len(text))], np.int32)


def nats(log_p, texts, size=T):
    y = np.stack([filled(text, size) for text in texts])
    return ctc.nats(jnp.tile(jnp.asarray(log_p)[None], (len(y), 1, 1)), y)


def test_the_loss_is_of_all_paths():
    log_p = log_softmax(logits(0, T, K))
    found = texts_of(log_p)
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    exact = -np.log(list(found.values()))
    np.testing.assert_allclose(nats(log_p, found), exact, atol=1e-5)

    def blanks_first(path):  # the order that is wrong: "1 0 1" would mean "1"
        return tuple(k for k, _ in itertools.groupby(t for t in path if t != 0))

    wrong = texts_of(log_p, blanks_first)
    off = [abs(np.log(found[text] / p)) for text, p in wrong.items()]
    assert max(off) > 0.1


def test_a_text_that_is_too_long_has_no_path_and_a_finite_gradient():
    log_p = log_softmax(logits(1, 3, K))
    values, y = jnp.asarray(log_p)[None], np.array([[1, 1, 0]])
    assert ctc.nats(values, y)[0] < 20
    long = np.array([[1, 1, 2]])  # 1 0 1 2: four steps
    assert ctc.nats(values, long)[0] > 1e4
    gradient = jax.jacrev(lambda v: ctc.nats(v, long)[0])(values)
    assert np.isfinite(gradient).all()


@pytest.mark.contract
def test_steps_past_the_end_change_no_probability():
    raw, y = logits(2, 2, 7, K), np.array([[1, 2, 0], [2, 0, 0]], np.int32)
    length = np.array([4, 6], np.int32)
    found = ctc.ended(raw, length)
    for i, n in enumerate(length):
        alone = ctc.ended(raw[i : i + 1, :n], length[i : i + 1])
        np.testing.assert_allclose(
            ctc.nats(found, y)[i], ctc.nats(alone, y[i : i + 1])[0], atol=1e-5
        )
        text, p = ctc.search(alone, 4, beams=40)
        again, q = ctc.search(found[i : i + 1], 4, beams=40)
        assert text.tolist() == again.tolist()
        np.testing.assert_allclose(q, p, atol=1e-5)


def test_paths_collapse_as_they_should():
    found = ctc.collapse(np.array(PATHS, np.int32))
    for path, text in zip(PATHS, found.tolist(), strict=True):
        assert text == filled(meant(path), T).tolist()


def test_a_search_of_all_beams_finds_the_likeliest_text():
    many = np.stack([log_softmax(logits(seed, T, K)) for seed in range(20)])
    beams = sum(2**n for n in range(T + 1))  # more than there are beginnings
    texts, scores = ctc.search(many, T, beams=beams)
    greedy, differ = ctc.greedy(many), 0
    for log_p, text, score, path in zip(many, texts, scores, greedy, strict=True):
        found = texts_of(log_p)
        best = max(found, key=found.__getitem__)
        assert text.tolist() == filled(best, T).tolist()
        assert score == pytest.approx(np.log(found[best]), abs=1e-5)
        top = meant(log_p.argmax(-1))
        assert path.tolist() == filled(top, T).tolist()
        differ += top != best
    assert 0 < differ < 10  # the likeliest path may mean a text that is not


@pytest.mark.contract
def test_a_search_of_few_beams_is_a_lower_bound_that_grows():
    many = np.stack([log_softmax(logits(seed, 8, 4)) for seed in range(8)])
    exact = ctc.search(many, 8, beams=500)[1]
    before = np.full(8, -np.inf)
    for beams in (1, 4, 16):
        found, score = ctc.search(many, 8, beams=beams)
        # of its own text, no more than that has
        own = -np.asarray(ctc.nats(jnp.asarray(many), found))
        assert (score <= own + 1e-5).all() and (own <= exact + 1e-4).all()
        assert score.mean() >= before.mean()
        before = score
    np.testing.assert_allclose(before, exact, atol=0.2)


def test_texts_of_a_search_are_no_longer_than_asked():
    log_p = log_softmax(logits(3, 1, T, K))
    texts, score = ctc.search(log_p, 1, beams=7)
    found = {k: p for k, p in texts_of(log_p[0]).items() if len(k) <= 1}
    best = max(found, key=found.__getitem__)
    assert texts.tolist() == [filled(best, 1).tolist()]
    assert score[0] == pytest.approx(np.log(found[best]), abs=1e-5)
    for wrong in ({"longest": 0}, {"longest": 1, "beams": 0}):
        with pytest.raises(UsageError, match="between 1 and"):
            ctc.search(log_p, **wrong)


@pytest.mark.parametrize("text", [(), (1,), (2, 2), (1, 2, 1), (1, 1, 1)])
def test_an_alignment_is_the_likeliest_path_of_a_text(text):
    log_p = log_softmax(logits(4, T, K))
    paths = [path for path in PATHS if meant(path) == text]
    best = max(paths, key=lambda p: sum(log_p[t, k] for t, k in enumerate(p)))
    found = ctc.align(jnp.asarray(log_p), jnp.array(text, jnp.int32))
    assert tuple(found.tolist()) == best


def test_the_task_judges_texts():
    path = np.array([[1, 1, 0, 2, 2], [0, 1, 0, 1, 0], [2, 0, 2, 1, 2]], np.int32)
    table = 20.0 * jax.nn.one_hot(path, K)

    class Network:  # that knows what it will be asked
        def init(self, key, x, length):
            return {"params": {"table": table}}

        def apply(self, variables, x, length, **more):
            return (variables["params"]["table"], length), {}

    task = ctc.task(Network())
    y = np.array([[1, 2], [1, 1], [2, 2]], np.int32)  # the last is cut short
    batch = {"x": table, "length": np.full(3, 5, np.int32), "y": y}
    params, state = task.init(jax.random.key(0), batch)
    _, aux = task.loss(params, state, batch, jax.random.key(0), train=False)
    assert float(aux.metrics["accuracy"].value()) == pytest.approx(2 / 3)
    batch["mask"] = np.array([1, 1, 0], np.float32)
    loss, aux = task.loss(params, state, batch, jax.random.key(0), train=True)
    assert float(aux.metrics["accuracy"].value()) == 1 and loss < 1e-5
    with pytest.raises(UsageError, match=r"expected texts \[B, L\] of tokens, found"):
        task.loss(params, state, batch | {"y": y[:, 0]}, None, train=False)
