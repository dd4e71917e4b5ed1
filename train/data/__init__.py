"""Data sets as dicts of arrays: built in, or the user's own, standardised and checked.

`load` gives a `Data`: its rows, and a `Schema` with all that a model and a later
prediction need to know of them.
"""

from train.data.builtin import NAMES as NAMES
from train.data.load import absolute as absolute
from train.data.load import load as load
from train.data.load import own as own
from train.data.load import read_rows as read_rows
from train.data.load import schema_of as schema_of
from train.data.long import from_sequences as from_sequences
from train.data.schema import Arrays as Arrays
from train.data.schema import Data as Data
from train.data.schema import Schema as Schema
from train.data.schema import Split as Split
from train.data.schema import as_sequence as as_sequence
from train.data.schema import between as between
from train.data.schema import blank as blank
from train.data.schema import change as change
from train.data.schema import from_json as from_json
from train.data.schema import given as given
from train.data.schema import label_of as label_of
from train.data.schema import labels as labels
from train.data.schema import request as request
from train.data.schema import restore_target as restore_target
from train.data.schema import standardize as standardize
from train.data.schema import to_json as to_json
from train.data.series import from_series as from_series
