"""What a notebook shows of records: tables, and nothing of a user's that is markup."""

from html.parser import HTMLParser

import numpy as np

from train.data import Schema
from train.data.columns import Column
from train.data.shown import listed
from train.recipes.saved import Loaded
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
    rest = (predict, None, None, None, None, 8, None)
    found = Loaded("softmax", task, None, params, {}, SCHEMA, config, *rest)
    cells = Cells(found._repr_html_())
    said = dict(zip(cells.texts[1::2], cells.texts[2::2], strict=True))
    assert cells.texts[0] == "Trained: softmax" and "script" not in cells.tags
    assert said["can"] == "predict" and said["parameters"] == "8"
    assert said["flags"] == "data a<b.csv, steps 20"


def test_many_names_are_some_and_their_number():
    assert listed(tuple("abc")) == "a, b, c"
    assert listed(tuple("abcdefghijkl"), 2) == "a, b, ... (12)"
