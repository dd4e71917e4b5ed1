"""Recipes that learn by acting: the contracts of the others, as far as they apply."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import test_contract as contract
from tests.conftest import ACTING, small
from train import evaluate
from train.data import Split
from train.recipes import RECIPES, prepare
from zoo.base import UsageError


@pytest.fixture(params=ACTING, scope="module")
def acting(request):
    """Each of them, small."""
    return small(request.param)


CONTRACTS = (
    contract.test_init_depends_on_the_seed_alone,
    contract.test_vmap_over_seeds_equals_separate_runs_of_one_program,
)


@pytest.mark.contract
@pytest.mark.parametrize("holds", CONTRACTS, ids=lambda f: f.__name__[5:])
def test_they_hold_to_the_contracts(acting, holds):
    holds(acting)


@pytest.mark.contract
def test_gradients_are_finite_and_reach_every_parameter(acting):
    state = contract.start(acting)
    batch = contract.batch_of(acting)

    def loss(params):
        key = jax.random.key(3)
        return acting.task.loss(params, state.model, batch, key, train=True)[0]

    found = jax.jit(jax.grad(loss))(state.params)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(found))
    assert all(np.any(g) for g in jax.tree.leaves(found))


@pytest.mark.contract
def test_an_episode_is_of_its_row_whatever_the_batch(acting):
    state, rows = contract.start(acting), acting.parts.test
    n = len(rows["x"])
    scores = evaluate.evaluate(acting.task, state, rows)
    assert scores["return"] == -scores["loss"] != 0
    turned = {"x": rows["x"][::-1], "row": np.arange(n, dtype=np.int32)[::-1]}
    for part, size in ((rows, 3), (turned, 7)):
        again = evaluate.evaluate(acting.task, state, part, batch_size=size)
        assert again == pytest.approx(scores, rel=1e-6)
    other = {"x": rows["x"], "row": np.arange(n, dtype=np.int32) + n}
    assert evaluate.evaluate(acting.task, state, other) != scores


def test_what_is_watched_are_other_episodes():
    data = prepare(RECIPES["ppo"], Split("cartpole", 0.1)).parts
    assert set(data.watched["row"]).isdisjoint(range(len(data.test["x"])))


def test_an_unknown_environment_is_named():
    message = "expected one of the environments cartpole, .*did you mean 'cartpole'"
    with pytest.raises(UsageError, match=message):
        prepare(RECIPES["ppo"], "cartpol")
    with pytest.raises(UsageError, match="expected an environment of some actions"):
        prepare(RECIPES["dqn"], "pendulum")
    with pytest.raises(UsageError, match="expected an environment of real actions"):
        prepare(RECIPES["sac"], "cartpole")


@pytest.mark.contract
@pytest.mark.parametrize("name", ["acrobot", "pendulum", "frozen_lake", "driving"])
def test_ppo_trains_in_every_kind_of_environment(name, zoo):
    flags = "--horizon 8 --epochs 1 --parts 1 --steps 3 --widths 8"
    status, out, err = zoo(f"train ppo --data {name} {flags} --out run")
    assert status == 0, err
    scores = json.loads(Path("run/result.json").read_text())["metrics"]
    assert np.isfinite(scores["return"]) and scores["length"] <= 500
    assert Path("run/episode.png").exists() and Path("run/curves.png").exists()
    assert zoo("eval run")[0] == 0


@pytest.mark.contract
def test_a_sweep_of_policies_draws_their_returns(zoo):
    flags = "--horizon 8 --epochs 2 --parts 2 --steps 40 --widths 8 --out swept"
    status, out, err = zoo(f"sweep ppo --seeds 2 {flags}")
    assert status == 0, err
    assert Path("swept/returns.png").exists()
    assert "return" in Path("swept/members.csv").read_text().splitlines()[0]
