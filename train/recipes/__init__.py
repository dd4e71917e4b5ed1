"""Named runs: each a function whose keywords are the flags of `zoo train NAME`.

`data` is the name of a bundled set, a path to a file of your own (with `target`, the
column of a .csv), or a `Data` record.
"""

from collections.abc import Callable

from train.recipes.autoencoders import autoencoder, denoising_autoencoder
from train.recipes.base import Goal as Goal
from train.recipes.base import Recipe as Recipe
from train.recipes.games import (
    conditional_gan,
    dcgan,
    gan,
    semi_supervised_gan,
    wgan_gp,
)
from train.recipes.images import cnn, cnn_cifar10, mlp, resnet20
from train.recipes.latent import (
    bernoulli_mixture,
    conditional_vae,
    conv_vae,
    recurrent_vae,
    vae,
)
from train.recipes.linear import lasso, linear, logistic, neuron, ridge, softmax
from train.recipes.sequences import (
    gru,
    lstm,
    peephole_lstm,
    rnn,
    transformer_classifier,
)
from train.recipes.text import (
    char_lstm,
    char_transformer,
    copy,
    seq2seq_lstm,
    seq2seq_transformer,
)

RECIPES: dict[str, Callable[..., Recipe]] = {
    function.__name__: function
    for function in (
        linear,
        ridge,
        lasso,
        logistic,
        softmax,
        neuron,
        mlp,
        cnn,
        resnet20,
        cnn_cifar10,
        rnn,
        gru,
        lstm,
        peephole_lstm,
        transformer_classifier,
        char_lstm,
        char_transformer,
        seq2seq_lstm,
        seq2seq_transformer,
        copy,
        autoencoder,
        denoising_autoencoder,
        bernoulli_mixture,
        vae,
        conv_vae,
        conditional_vae,
        recurrent_vae,
        gan,
        dcgan,
        wgan_gp,
        conditional_gan,
        semi_supervised_gan,
    )
}
