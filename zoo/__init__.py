"""Models as pure functions: the catalogue. A module is a chapter; it holds its API."""

from zoo import attention as attention
from zoo import autoencoder as autoencoder
from zoo import base as base
from zoo import blocks as blocks
from zoo import cache as cache
from zoo import checks as checks
from zoo import cnn as cnn
from zoo import convolution as convolution
from zoo import edges as edges
from zoo import gan as gan
from zoo import graph as graph
from zoo import knowledge as knowledge
from zoo import language as language
from zoo import layers as layers
from zoo import linear as linear
from zoo import mixture as mixture
from zoo import mlp as mlp
from zoo import recommender as recommender
from zoo import recurrent_vae as recurrent_vae
from zoo import rnn as rnn
from zoo import seq2seq as seq2seq
from zoo import supervised as supervised
from zoo import transformer as transformer
from zoo import types as types
from zoo import vae as vae
from zoo import weights as weights
