"""Named experiments: the table of recipes, whose keywords are the flags of `zoo train`.

`prepare(RECIPES["vae"], latent=2)` is one with its data, ready to be trained.
"""

from train.recipes import (
    acting,
    autoencoders,
    clusters,
    driving,
    energy,
    games,
    graphs,
    images,
    labelled,
    latent,
    linear,
    multitask,
    ratings,
    relations,
    scenes,
    sequences,
    speech,
    text,
    unlabelled,
    words,
)
from train.recipes.base import Built as Built
from train.recipes.base import Experiment as Experiment
from train.recipes.base import Goal as Goal
from train.recipes.base import Recipe as Recipe
from train.recipes.base import Training as Training
from train.recipes.base import build as build
from train.recipes.base import parameters as parameters
from train.recipes.base import prepare as prepare

RECIPES: dict[str, Recipe] = {
    **linear.RECIPES,
    **clusters.RECIPES,
    **images.RECIPES,
    **multitask.RECIPES,
    **scenes.RECIPES,
    **sequences.RECIPES,
    **speech.RECIPES,
    **graphs.RECIPES,
    **text.RECIPES,
    **labelled.RECIPES,
    **autoencoders.RECIPES,
    **latent.RECIPES,
    **energy.RECIPES,
    **games.RECIPES,
    **unlabelled.RECIPES,
    **acting.RECIPES,
    **driving.RECIPES,
    **relations.RECIPES,
    **ratings.RECIPES,
    **words.RECIPES,
}
