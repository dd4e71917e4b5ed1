"""Makes the golden files of the generative models: see make_golden.py.

    python tests/golden/make_generative.py

All that is random comes in with the inputs: a row of x is the pixels of an image
(channels last), then the noise, then the label of a conditional model.

vae_*: outputs are (log p(x|z), mean, log-variance), predictions the divergence of each
example. penalty_*: a critic f with loss mean(f^2 + penalty); outputs are (f,
penalty), predictions the penalty of each example. dcgan: outputs are (D(x), D(G(z)),
G(z)), predictions sigmoid(D(x)); each player has an optimizer and a gradient of its
own, both taken before either moves. dcgan holds a fifth run, "players": Adam with
b1 = 0.5, at the rates of players/rate for the generator and the discriminator.
"""

import make_golden as golden
import numpy as np
import torch
from torch import nn
from torch.nn import functional

# -- Networks --------------------------------------------------------------------------


class ConvEncoder(nn.Module):
    """Two convolutions that halve an 8x8 image, then dense."""

    def __init__(self, channels, outputs, activation, batch_norm=False):
        super().__init__()
        first, second = channels
        self.convs_0 = nn.Conv2d(1, first, 4, 2, 1)
        self.act_0 = activation()
        self.convs_1 = nn.Conv2d(first, second, 4, 2, 1, bias=not batch_norm)
        self.norms_1 = nn.BatchNorm2d(second) if batch_norm else nn.Identity()
        self.act_1 = activation()
        self.dense = nn.Linear(4 * second, outputs)

    def forward(self, x):
        x = self.act_0(self.convs_0(x))
        x = self.act_1(self.norms_1(self.convs_1(x)))
        return self.dense(x.movedim(1, -1).flatten(1))


class ConvDecoder(nn.Module):
    """Dense, then two transposed convolutions that double, to 8x8."""

    def __init__(self, latent, channels, batch_norm=False):
        super().__init__()
        first, second = channels
        norm = nn.BatchNorm2d if batch_norm else nn.Identity
        bias = not batch_norm
        self.Dense_0 = nn.Linear(latent, 4 * first, bias=bias)
        self.BatchNorm_0, self.act_0 = norm(first), nn.ReLU()
        self.ConvTranspose_0 = nn.ConvTranspose2d(first, second, 4, 2, 1, bias=bias)
        self.BatchNorm_1, self.act_1 = norm(second), nn.ReLU()
        self.ConvTranspose_1 = nn.ConvTranspose2d(second, 1, 4, 2, 1)

    def forward(self, z):
        x = self.Dense_0(z).reshape(len(z), 2, 2, -1).movedim(-1, 1)
        x = self.act_0(self.BatchNorm_0(x))
        x = self.act_1(self.BatchNorm_1(self.ConvTranspose_0(x)))
        return self.ConvTranspose_1(x)


class VAE(nn.Module):
    """Its outputs [B, 1 + 2 Z] are (log p(x|z), mean, logvar) for a row."""

    def forward(self, row):
        x, noise, y = self.parts(row)
        mean, logvar = self.encode(x, y).chunk(2, 1)
        normal = torch.distributions.Normal(mean, (logvar / 2).exp())
        z = normal.loc + normal.scale * noise
        log_likelihood = self.log_likelihood(x, z, y).flatten(1).sum(1, keepdim=True)
        return torch.cat([log_likelihood, mean, logvar], 1)


class ConvVAE(VAE):
    """Bernoulli: images 8x8, three latent dimensions."""

    def __init__(self):
        super().__init__()
        self.encoder = ConvEncoder((3, 4), 6, nn.ReLU)
        self.decoder = ConvDecoder(3, (4, 3))

    def parts(self, row):
        x, noise = row.split([64, 3], 1)
        return x.reshape(-1, 1, 8, 8), noise, None

    def encode(self, x, y):
        return self.encoder(x)

    def log_likelihood(self, x, z, y):
        logits = self.decoder(z)
        return -functional.binary_cross_entropy_with_logits(logits, x, reduction="none")


class LabelledLinear(nn.Linear):
    """Dense over [features, one-hot label]: in zoo a dense layer and an embedding."""


class DenseVAE(VAE):
    """Gaussian with a learned scale, conditional: 3x4, 2 latent dimensions, 3 classes.

    As in the paper, the label stands beside what the last dense layer of the encoder
    sees, and beside z.
    """

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.encoder = nn.Module()
        self.encoder.Dense_0 = nn.Linear(12, 5)
        self.encoder.Dense_1 = LabelledLinear(5 + 3, 4)
        self.decoder = nn.Module()
        self.decoder.MLP_0 = nn.Module()
        self.decoder.MLP_0.Dense_0 = nn.Linear(2 + 3, 5)
        self.decoder.MLP_0.Dense_1 = nn.Linear(5, 12)
        self.relu = nn.ReLU()

    def parts(self, row):
        x, noise, y = row.split([12, 2, 1], 1)
        return x, noise, functional.one_hot(y[:, 0].long(), 3).double()

    def encode(self, x, y):
        h = self.relu(self.encoder.Dense_0(x))
        return self.encoder.Dense_1(torch.cat([h, y], 1))

    def log_likelihood(self, x, z, y):
        layers = self.decoder.MLP_0
        h = self.relu(layers.Dense_0(torch.cat([z, y], 1)))
        normal = torch.distributions.Normal(layers.Dense_1(h), self.log_scale.exp())
        return normal.log_prob(x)


class Penalty(nn.Module):
    """Its outputs [B, 2] are a critic and its gradient penalty."""

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            value = self.critic(x)
            (slope,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        # zoo adds this too: without it the root has no derivative at 0
        norm = torch.sqrt(slope.flatten(1).square().sum(1) + 1e-12)
        penalty = (norm - 1) ** 2
        return torch.cat([value, penalty[:, None]], 1)


class DensePenalty(Penalty):
    def __init__(self):
        super().__init__()
        self.Dense_0, self.Dense_1 = nn.Linear(6, 7), nn.Linear(7, 5)
        self.Dense_2 = nn.Linear(5, 1)
        self.relu = nn.LeakyReLU(0.2)

    def critic(self, x):
        return self.Dense_2(self.relu(self.Dense_1(self.relu(self.Dense_0(x)))))


class ConvPenalty(Penalty):
    def __init__(self):
        super().__init__()
        layers = ConvEncoder((3, 4), 1, lambda: nn.LeakyReLU(0.2))
        for name, layer in layers.named_children():
            self.add_module(name, layer)

    def critic(self, x):
        return ConvEncoder.forward(self, x)


class DCGAN(nn.Module):
    def __init__(self):
        super().__init__()
        self.discriminator = ConvEncoder((3, 4), 1, lambda: nn.LeakyReLU(0.2), True)
        self.generator = nn.Module()
        self.generator.decoder = ConvDecoder(3, (4, 3), True)

    def parts(self, row):
        x, z = row.split([64, 3], 1)
        return x.reshape(-1, 1, 8, 8), torch.tanh(self.generator.decoder(z))

    def forward(self, row):
        x, fake = self.parts(row)
        judged = [self.discriminator(images) for images in (x, fake)]
        return torch.cat([*judged, fake.flatten(1)], 1)


# -- Losses ----------------------------------------------------------------------------


def divergence(outputs):
    mean, logvar = outputs[:, 1:].chunk(2, 1)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    return torch.distributions.kl_divergence(posterior, prior).sum(1)


def bound(outputs, y):
    return (divergence(outputs) - outputs[:, 0]).mean()


def critic(outputs, y):
    return (outputs[:, 0] ** 2 + outputs[:, 1]).mean()


PREDICT = {bound: divergence, critic: lambda outputs: outputs[:, 1]}


def label(logits, value):
    """Cross-entropy of all logits against one label."""
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, value)
    )


def play(network, row):
    """Both players' losses, their sum; the gradients are left in the parameters."""
    discriminator, generator = network.discriminator, network.generator
    x, fake = network.parts(row)
    ours = label(discriminator(x), 1.0) + label(discriminator(fake.detach()), 0.0)
    kept = {k: v.clone() for k, v in discriminator.named_buffers()}
    theirs = label(discriminator(fake), 1.0)
    for player, value in ((discriminator, ours), (generator, theirs)):
        weights = list(player.parameters())
        slopes = torch.autograd.grad(value, weights, retain_graph=True)
        for weight, slope in zip(weights, slopes, strict=True):
            weight.grad = slope
    # the generator's look at the discriminator leaves no trace in its statistics
    for k, v in discriminator.named_buffers():
        v.copy_(kept[k])
    return float((ours + theirs).detach())


# -- The arrays of a network in the layout of Flax -------------------------------------


def parameters(network):
    """(path in Flax's tree, torch parameter, function into Flax's layout)."""
    for name, layer in network.named_modules():
        for kind, value in layer.named_parameters(recurse=False):
            layout = lambda v: v  # noqa: E731
            path = [part for part in name.split(".") if part]
            if isinstance(layer, LabelledLinear) and kind == "weight":
                yield "shift/embedding", value, lambda v: v[:, -3:].T
                kind, layout = "kernel", lambda v: v[:, :-3].T
            elif isinstance(layer, nn.ConvTranspose2d) and kind == "weight":
                # [in, out, H, W], turned: torch's is the gradient of a convolution
                kind, layout = "kernel", lambda v: v.flip(2, 3).permute(2, 3, 0, 1)
            elif isinstance(layer, golden.BATCH_NORMS):
                kind = {"weight": "scale"}.get(kind, kind)
            elif kind == "weight":
                kind, layout = "kernel", lambda v: v.movedim((1, 0), (-2, -1))
            yield "/".join([*path, kind]), value, layout


def randomize(network, rng, known=golden.randomize):
    """As in make_golden, for the parameters that it does not know too."""
    known(network, rng)

    def put(tensor, values):
        tensor.data = torch.tensor(values.astype(np.float32), dtype=torch.float64)

    for layer in network.modules():
        if isinstance(layer, nn.ConvTranspose2d):
            fan_in = 4 * layer.in_channels  # a quarter of the kernel at a time
            put(layer.weight, rng.normal(0, fan_in**-0.5, layer.weight.shape))
            if layer.bias is not None:
                put(layer.bias, rng.normal(0, 0.3, layer.bias.shape))
        elif isinstance(layer, DenseVAE):
            put(layer.log_scale, rng.normal(0, 0.3, 1))
    return network


# -- Cases -----------------------------------------------------------------------------


def rows(low, pixels, latent, labels=0, quarters=golden.inputs):
    """Inputs: pixels in [low, 1], noise, labels."""

    def inputs(rng, *shape):
        x = quarters(rng, *shape)
        x[..., :pixels] = np.clip(x[..., :pixels], low, 1)
        if labels:
            x[..., pixels + latent :] = rng.integers(0, labels, (*shape[:-1], 1))
        return x

    return inputs


def make_game(case, seed):
    """As make_golden.make, for two players."""
    build, _, shape, batch, _ = case
    rng = np.random.default_rng((seed, 1))
    x = golden.inputs(rng, golden.STEPS, batch, *shape)
    xs = torch.tensor(x, dtype=torch.float64)

    def fresh():
        return randomize(build().double(), np.random.default_rng(seed))

    network = fresh()
    weights, start = golden.to_flax(network, None, {})
    arrays = {"x": x, "y": np.zeros((golden.STEPS, batch), np.int32)}
    arrays.update({f"weights/{k}": v.astype(np.float32) for k, v in weights.items()})
    arrays.update({f"stats/{k}": v.astype(np.float32) for k, v in start.items()})
    margins, _ = golden.watch(network)
    network.eval()
    with torch.no_grad():
        outputs = network(xs[0])
        real, fake = outputs[:, 0], outputs[:, 1]
        arrays["outputs"] = outputs.numpy()
        arrays["predictions"] = torch.sigmoid(outputs[:, :1]).numpy()
        value = label(real, 1.0) + label(fake, 0.0) + label(fake, 1.0)
        arrays["eval_loss"] = value.numpy()
    network.train()
    arrays["loss"] = np.array(play(network, xs[0]))
    arrays["grad"] = golden.vector(
        layout(p.grad).numpy() for _, p, layout in parameters(network)
    )

    slopes = [golden.smallest_slope(network)]
    runs = {
        name: ((rate, rate), optimizer, settings)
        for name, (rate, optimizer, settings) in golden.OPTIMIZERS.items()
    }
    halves = {"betas": (0.5, 0.999), "eps": 1e-8}
    runs["players"] = (0.01, 0.005), torch.optim.Adam, halves
    for name, (rates, optimizer, settings) in runs.items():
        network = fresh()
        more, counts = golden.watch(network)
        network.train()
        players = network.generator, network.discriminator
        optimizers = [
            optimizer(player.parameters(), lr=rate, **settings)
            for player, rate in zip(players, rates, strict=True)
        ]
        values = []
        for t in range(golden.STEPS):
            values.append(play(network, xs[t]))
            slopes.append(golden.smallest_slope(network))
            for one in optimizers:
                one.step()
        weights, stats = golden.to_flax(network, start, counts)
        arrays[f"{name}/weights"] = golden.vector(weights.values())
        arrays[f"{name}/stats"] = golden.vector(stats.values())
        arrays[f"{name}/losses"] = np.array(values)
        arrays[f"{name}/rate"] = np.array(rates if name == "players" else rates[0])
        margins += more
    return arrays, min(margins), min(slopes)


# name: the case, its inputs
CASES = {
    "vae_dense": ((DenseVAE, bound, (15,), 6, 1), rows(0, 12, 2, 3)),
    "vae_conv": ((ConvVAE, bound, (67,), 6, 1), rows(0, 64, 3)),
    "penalty_dense": ((DensePenalty, critic, (6,), 6, 1), golden.inputs),
    "penalty_conv": ((ConvPenalty, critic, (1, 8, 8), 6, 1), golden.inputs),
    "dcgan": ((DCGAN, None, (67,), 6, 1), rows(-1, 64, 3)),
}


def main():
    golden.parameters = parameters
    golden.randomize = randomize
    golden.PREDICT = PREDICT
    plain = golden.make
    for name, (case, inputs) in CASES.items():
        golden.CASES, golden.inputs = {name: case}, inputs
        golden.make = make_game if name == "dcgan" else plain
        golden.main([])


if __name__ == "__main__":
    main()
