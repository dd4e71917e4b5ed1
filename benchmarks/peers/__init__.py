"""One module for each library; each has `MODELS` and `prepare(family, arrays, peer)`.

To add a family: its entry in `benchmarks.families`, and one in the MODELS of each peer
that has it (flax and torch build a GAN's two networks beside their update). A peer's
parameters are named by Flax's paths, so that the weights of one can be copied into all.
"""
