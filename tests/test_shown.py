"""What a notebook shows of records: tables, and nothing of a user's that is markup."""

from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np

from train import step as one
from train.data import Schema
from train.data.columns import Column
from train.loop import Fit
from train.recipes.saved import Loaded
from train.shown.html import listed
from zoo import linear

SCHEMA = Schema(
    "<script>alert(1)</script>.csv",
    (3,),
    ("<b>yes</b>", "no & never"),
    (0.0,) * 3,
    (1.0,) * 3,
    columns=(Column("size"), Column('"colour"'), Column("long" * 99)),
    target_name="a<b",
    rows=1200,
)


class Cells(HTMLParser):
    """Texts by the tag that they stand in, and all tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts = set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def test_a_schema_is_a_table_with_what_is_the_users_as_text():
    cells = Cells(SCHEMA._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert cells.texts[0] == "Schema of <script>alert(1)</script>.csv"
    said = dict(zip(cells.texts[1::2], cells.texts[2::2], strict=True))
    assert said["rows to train on"] == "1,200" and said["target"] == "a<b"
    assert said["classes"] == "<b>yes</b>, no & never"
    assert said["columns"].startswith('size, "colour", long') and "…" in said["columns"]
    assert "season" not in said and "tokens" not in said  # it has none


def test_a_trained_model_says_what_it_can_be_asked_for():
    config = {"arguments": {"data": "a<b.csv", "steps": 20, "clip": None}}
    params = {"Dense_0": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}}
    task, predict = linear.softmax(2), abs
    rest = (predict, None, None, None, None, None, 8, None)
    found = Loaded("softmax", task, None, params, {}, SCHEMA, config, *rest)
    cells = Cells(found._repr_html_())
    said = dict(zip(cells.texts[1::2], cells.texts[2::2], strict=True))
    assert cells.texts[0] == "Trained: softmax" and "script" not in cells.tags
    assert said["can"] == "predict" and said["parameters"] == "8"
    assert said["flags"] == "data a<b.csv, steps 20"


def state(params, step=1200):
    return one.State(jnp.int32(step), params, {}, (), jnp.uint32(0))


PARAMS = {"<b>x</b>": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)}, "scale": 1.0}


def test_a_state_is_its_parameters_by_layer():
    params = jax.tree.map(jnp.asarray, PARAMS)
    cells = Cells(state(params)._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    assert cells.texts == [
        *("State after step 1,200", "layer", "parameters", "numbers"),
        *("<b>x</b>", "bias 2, kernel 3 x 2", "8"),
        *("scale one number", "1", "in all", "9"),
    ]
    many = state({f"layer_{i:02}": {"w": jnp.zeros(2)} for i in range(60)})
    texts = Cells(many._repr_html_()).texts
    assert texts[-4:] == ["... 12 more", "24", "in all", "120"]
    several = jax.tree.map(lambda a: jnp.stack([a, a]), state(params))
    assert Cells(several._repr_html_()).texts[0] == "State"
    many.step.delete()  # donated to the next chunk
    assert Cells(many._repr_html_()).texts[0] == "State"


def test_a_fit_is_its_history_and_its_state():
    params = jax.tree.map(jnp.asarray, PARAMS)
    plain = [{"seconds": i, "step": i, "loss": 1 / i} for i in range(1, 101)]
    records = [r | {"<i>eval_loss": 0.5} if r["step"] % 4 == 0 else r for r in plain]
    trained = one.Trained(params, {})
    cells = Cells(Fit(trained, records, "finished", state(params, 100))._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "th", "td"}
    heads = ["step", "loss", "<i>eval_loss", "seconds"]
    assert cells.texts[:5] == ["Fit: finished", *heads]
    table = cells.texts[5 : cells.texts.index("State after step 100")]
    assert table[-4:] == ["100", "0.01", "0.5", "100"] and len(table) // 4 <= 12
    assert all(int(step) % 4 == 0 for step in table[::4])
    records[3] |= {"skipped": 2}  # a line that has more than others is not the only one
    again = Cells(Fit(trained, records, "finished", state(params, 100))._repr_html_())
    assert again.texts[1:6] == ["step", "loss", "<i>eval_loss", "skipped", "seconds"]
    assert again.texts.count("0.5") == len(table) // 4
    none = Fit(trained, [], "interrupted", state(params, 0))
    assert Cells(none._repr_html_()).texts[0] == "Fit: interrupted"


def test_many_names_are_some_and_their_number():
    assert listed(tuple("abc")) == "a, b, c"
    assert listed(tuple("abcdefghijkl"), 2) == "a, b, ... (12)"
