"""The networks of `benchmarks.peers.torch`; parameters are named as in Flax."""

import torch
from torch import nn
from torch.nn import functional

from benchmarks.families import FEATURES, HEADS, LAYERS, WIDTH, sinusoid


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
        # float32 beside bfloat16, as the zoo has it
        mean, logvar = self.encode(x).float().chunk(2, -1)
        noise = torch.randn_like(mean) if noise is None else noise
        logits = self.decode(mean + torch.exp(0.5 * logvar) * noise).float()
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
        return self.Dense_0(x.permute(0, 2, 3, 1).flatten(1)).float()


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
