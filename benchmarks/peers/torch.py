"""PyTorch: "torch" (channels last where there are images), "torch-nchw" (its default
memory format) and "torch-compile"."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.families import (
    BETAS,
    FEATURES,
    HEADS,
    LAYERS,
    WIDTH,
    Arrays,
    Family,
    Trainer,
    sinusoid,
    under,
)


class CNN(nn.Module):
    """Two convolutions, each with a pool, and two dense layers."""

    def __init__(self):
        super().__init__()
        self.Conv_0, self.Conv_1 = nn.Conv2d(1, 32, 3), nn.Conv2d(32, 64, 3)
        self.Dense_0, self.Dense_1 = nn.Linear(1600, 64), nn.Linear(64, 10)

    def forward(self, x):
        # pooled before the activation, as in the zoo: less to do for both
        x = functional.relu(functional.max_pool2d(self.Conv_0(x), 2))
        x = functional.relu(functional.max_pool2d(self.Conv_1(x), 2))
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order in which Flax flattens
        return self.Dense_1(functional.relu(self.Dense_0(x)))


def _conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


class Block(nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, self.more = stride, (outputs - inputs) // 2
        self.Conv_0, self.Conv_1 = (
            _conv(inputs, outputs, stride),
            _conv(outputs, outputs),
        )
        self.BatchNorm_0, self.BatchNorm_1 = (nn.BatchNorm2d(outputs) for _ in "12")

    def forward(self, x):
        y = functional.relu(self.BatchNorm_0(self.Conv_0(x)))
        y = self.BatchNorm_1(self.Conv_1(y))
        if self.stride > 1:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(x + y)


class ResNet20(nn.Module):
    """Three stages of three blocks."""

    def __init__(self):
        super().__init__()
        self.Conv_0, self.BatchNorm_0 = _conv(1, 16), nn.BatchNorm2d(16)
        shapes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2
        for i, shape in enumerate(shapes + [(32, 64, 2)] + [(64, 64, 1)] * 2):
            self.add_module(f"Block_{i}", Block(*shape))
        self.Dense_0 = nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.BatchNorm_0(self.Conv_0(x)))
        for i in range(9):
            x = getattr(self, f"Block_{i}")(x)
        return self.Dense_0(x.mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM or a GRU, and a dense layer on its last state."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.Dense_0 = kind(28, 128, batch_first=True), nn.Linear(128, 10)
        if kind is nn.LSTM:  # a sum of two biases would learn twice as fast as one
            self.rnn.bias_hh_l0.requires_grad_(False)

    def forward(self, x):
        _, last = self.rnn(x)
        h = last[0] if isinstance(last, tuple) else last
        return self.Dense_0(h[0])


class Attention(nn.Module):
    """Query, key and value as one product, as in nn.MultiheadAttention."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """Attention and a hidden layer, each behind a norm and beside a shortcut."""

    def __init__(self):
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(WIDTH), Attention()
        self.mlp_norm, self.up = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        y = functional.gelu(self.up(self.mlp_norm(x)), approximate="tanh")
        return x + self.down(y)


class Transformer(nn.Module):
    """Blocks, a norm, the mean over time."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(FEATURES, WIDTH)
        self.register_buffer("positions", torch.tensor(sinusoid()))
        for i in range(LAYERS):
            self.add_module(f"encoder_{i}", Encoder())
        self.norm, self.dense = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x):
        x = self.embed(x) + self.positions
        for i in range(LAYERS):
            x = getattr(self, f"encoder_{i}")(x)
        return self.dense(self.norm(x).mean(1))


def _sequential(**layers):
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


class VAE(nn.Module):
    """The mean negative ELBO itself: compiled with the network it is faster."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = (
            _sequential(
                Dense_0=nn.Linear(inputs, 400),
                relu=nn.ReLU(),
                Dense_1=nn.Linear(400, outputs),
            )
            for inputs, outputs in ((784, 40), (20, 784))
        )

    def forward(self, x, noise=None):
        mean, logvar = self.encode(x).chunk(2, -1)
        noise = torch.randn_like(mean) if noise is None else noise
        logits = self.decode(mean + torch.exp(0.5 * logvar) * noise)
        error = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * (logvar.exp() + mean.square() - 1 - logvar).sum()
        return (error + kl) / len(x)


class Generator(nn.Module):
    """A dense layer and two transposed convolutions."""

    def __init__(self, layout):
        super().__init__()
        self.layout = layout
        self.Dense_0 = nn.Linear(64, 7 * 7 * 128, bias=False)
        self.BatchNorm_0, self.BatchNorm_1 = nn.BatchNorm2d(128), nn.BatchNorm2d(64)
        self.ConvTranspose_0 = nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False)
        self.ConvTranspose_1 = nn.ConvTranspose2d(64, 1, 4, 2, 1)

    def forward(self, z):
        # as Flax has them: channels last
        x = self.Dense_0(z).unflatten(1, (7, 7, 128)).permute(0, 3, 1, 2)
        x = x.contiguous(memory_format=self.layout)
        x = functional.relu(self.BatchNorm_0(x), inplace=True)
        x = functional.relu(self.BatchNorm_1(self.ConvTranspose_0(x)), inplace=True)
        return torch.tanh(self.ConvTranspose_1(x))


class Discriminator(nn.Module):
    """Two convolutions and a dense layer."""

    def __init__(self):
        super().__init__()
        self.Conv_0 = nn.Conv2d(1, 64, 4, 2, 1)
        self.Conv_1 = nn.Conv2d(64, 128, 4, 2, 1, bias=False)
        self.BatchNorm_0, self.Dense_0 = nn.BatchNorm2d(128), nn.Linear(7 * 7 * 128, 1)

    def forward(self, x):
        x = functional.leaky_relu(self.Conv_0(x), 0.2, inplace=True)
        x = functional.leaky_relu(self.BatchNorm_0(self.Conv_1(x)), 0.2, inplace=True)
        return self.Dense_0(x.permute(0, 2, 3, 1).flatten(1))


MODELS = {
    "linear": lambda: _sequential(dense=nn.Linear(10, 1)),
    "mlp": lambda: _sequential(
        Dense_0=nn.Linear(784, 256), relu=nn.ReLU(), Dense_1=nn.Linear(256, 10)
    ),
    "cnn": CNN,
    "resnet20": ResNet20,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "transformer": Transformer,
    "vae": VAE,
}
LOSSES = {
    "classes": functional.cross_entropy,
    "squared": lambda outputs, y: functional.mse_loss(outputs[:, 0], y),
}


def _learner(family, network, compiled):
    """update(x, y) -> loss, of a VAE update(x, noise or none)."""
    forward = torch.compile(network) if compiled else network
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[family.optimizer]
    optimizer = make(network.parameters(), lr=family.rate, fused=True)
    loss = forward
    if family.loss != "elbo":

        def loss(x, y):
            return LOSSES[family.loss](forward(x), y)

    def update(*batch):
        optimizer.zero_grad()
        value = loss(*batch)
        value.backward()
        optimizer.step()
        return value

    return update


def _game(family, players, compiled):
    """update(x, noise or none) -> the sum of both players' losses.

    Eager, the discriminator judges generated images once for both players. A compiled
    one would find all its gradients in either backward pass; it judges them again.
    """
    generator, discriminator = players["generator"], players["discriminator"]
    fields = {"lr": family.rate, "betas": BETAS, "fused": True}
    optimizers = [torch.optim.Adam(p.parameters(), **fields) for p in players.values()]
    make, judge = generator, discriminator
    if compiled:
        make, judge = torch.compile(generator), torch.compile(discriminator)
    softplus = functional.softplus

    def update(x, noise=None):
        for optimizer in optimizers:
            optimizer.zero_grad()
        fake = make(torch.randn(len(x), family.latent) if noise is None else noise)
        if compiled:
            critic = softplus(-judge(x)).mean() + softplus(judge(fake.detach())).mean()
            critic.backward()
            discriminator.requires_grad_(False)
            maker = softplus(-judge(fake)).mean()
            maker.backward()
            discriminator.requires_grad_(True)
        else:
            real, false = judge(x), judge(fake)
            critic = softplus(-real).mean() + softplus(false).mean()
            maker = softplus(-false).mean()
            critic.backward(inputs=list(discriminator.parameters()), retain_graph=True)
            maker.backward(inputs=list(generator.parameters()))
        for optimizer in optimizers:
            optimizer.step()
        return critic.detach() + maker.detach()

    return update


def prepare(family: Family, arrays: Arrays, peer: str) -> Trainer:
    """Initialised by torch, then given the weights of `arrays`."""
    layout = torch.contiguous_format if peer == "torch-nchw" else torch.channels_last
    data = [torch.tensor(arrays[name]) for name in "xy" if name in arrays]
    if family.loss == "classes":
        data[1] = data[1].long()
    if family.loss == "game":
        players = {"generator": Generator(layout), "discriminator": Discriminator()}
        network, start = nn.ModuleDict(players), _game
    else:
        network, start = MODELS[family.name](), _learner
    copy_weights(network, under(arrays, "params"))
    if data[0].ndim == 4:
        data[0] = data[0].permute(0, 3, 1, 2).contiguous(memory_format=layout)
        network = network.to(memory_format=layout)
    update = start(family, network, peer == "torch-compile")
    size, full = family.batch, family.batch == family.rows

    def step(i):
        at = i % family.epoch * size
        batch = data if full else [a[at : at + size] for a in data]
        if family.latent:  # else each update draws its own
            batch = [*batch, torch.tensor(arrays["noise"][i])]
        return update(*batch).item()

    def run(steps):
        for i in range(steps):
            batch = data
            if not full:
                if i % family.epoch == 0:
                    orders = torch.randperm(family.rows).split(size)
                at = orders[i % family.epoch]
                batch = [a[at] for a in data]
            update(*batch)

    parameters = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Trainer(parameters, step, run)


RECURRENT = {
    "weight_ih_l0": "kernel",
    "weight_hh_l0": "recurrent",
    "bias_ih_l0": "bias",
    "bias_hh_l0": "recurrent_bias",
}


@torch.no_grad()
def copy_weights(network: nn.Module, params: Arrays) -> None:
    """Arrays by Flax's paths into torch's layout; every parameter must be there.

    But for those that are not trained, which are zero.
    """
    for name, value in network.named_parameters():
        path, kind = name.replace(".", "/").rsplit("/", 1)
        if kind == "weight":
            kind = "kernel" if value.ndim > 1 else "scale"
        kind = RECURRENT.get(kind, kind)
        if not value.requires_grad:
            value.zero_()
            continue
        parts = [path]
        if path.endswith("/qkv"):
            parts = [path.replace("qkv", part) for part in ("query", "key", "value")]
        array = torch.cat([torch.tensor(params[f"{p}/{kind}"]) for p in parts], -1)
        if "ConvTranspose" in path and value.ndim > 1:
            # [*S, in, out] -> [in, out, *S], of torch's as the gradient of another
            array = array.flip(0, 1).movedim((-2, -1), (0, 1))
        elif value.ndim > 1:  # [*S, in, out] -> [out, in, *S]
            array = array.movedim((-1, -2), (0, 1))
        value.copy_(array)
