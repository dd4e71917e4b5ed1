"""Knowledge graphs: which entity completes a triple."""

from typing import Literal

from train.data import Schema, views
from train.recipes.base import Built, Goal, Recipe, Training
from train.report.measure import losses
from zoo import knowledge
from zoo.base import Number, UsageError

ScoreName = Literal["transe", "distmult", "complex", "rotate"]


def knowledge_graph(
    schema: Schema,
    *,
    score: ScoreName = "complex",
    width: int = 256,
    reciprocal: bool = True,
    dropout: Number = 0.4,
    n3: Number = 0.007,
) -> Built:
    """Embeddings of entities and relations that tell which triples hold."""
    if len(schema.ids) != 2 or not schema.classes:
        raise UsageError(f"expected triples of a graph, found {schema.name}")
    entities, relations = map(len, schema.ids)
    model = knowledge.Graph(
        entities, relations // 2, score, width, reciprocal, dropout=dropout
    )
    task = knowledge.task(model, n3=n3)
    return Built(task, model, losses(task), mixed=False)


RECIPES = {
    "knowledge_graph": Recipe(
        knowledge_graph,
        views.triples,
        "umls",
        Training(2500, 256, "adam", 0.025, "cosine", ema=0.99),
        Goal("mrr", 0.94),
        "Which entity completes a triple: the filtered reciprocal rank, of heads and "
        "of tails. --score is transe, distmult, complex or rotate; --data may be "
        "kinships, nations, clock or an .npz file of triples.",
        "a minute",
        'Trouillon et al., "Complex embeddings for simple link prediction", 2016',
    ),
}
