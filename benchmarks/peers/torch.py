"""PyTorch: "torch" (channels last where there are images), "torch-nchw" (its default
memory format), "torch-compile", and "torch-graph": an eager update, captured once as a
CUDA graph and replayed."""

import contextlib
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.families import BETAS, Arrays, Family, Trainer, under
from benchmarks.peers.torch_networks import MODELS, Discriminator, Generator
from benchmarks.setting import Setting

LOSSES = {
    "classes": functional.cross_entropy,
    "squared": lambda outputs, y: functional.mse_loss(outputs[:, 0], y),
}


def configure(setting: Setting) -> str:
    """Set the precision of products for this process; the device's name."""
    rounds = setting.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = rounds
    torch.backends.cudnn.allow_tf32 = rounds
    torch.backends.cudnn.benchmark = True  # shapes stay: try the algorithms, as XLA
    return "cuda" if setting.gpu else "cpu"


def _mixed(setting, peer):
    """What a forward pass stands in."""
    if setting.precision != "bfloat16":
        return contextlib.nullcontext
    device = "cuda" if setting.gpu else "cpu"
    keep = peer != "torch-graph"  # casts that are kept would be captured as constants
    return lambda: torch.autocast(device, torch.bfloat16, cache_enabled=keep)


def _optimizer(family, parameters, peer):
    fields: dict[str, Any] = {"lr": family.rate, "fused": True}
    if family.optimizer == "sgd":
        return torch.optim.SGD(parameters, **fields)
    if family.optimizer == "adversaries":
        fields["betas"] = BETAS
    return torch.optim.Adam(parameters, capturable=peer == "torch-graph", **fields)


def _learner(family, network, peer, mixed):
    """update(x, y) -> loss, of a VAE update(x, noise or none)."""
    forward = torch.compile(network) if peer == "torch-compile" else network
    optimizer = _optimizer(family, network.parameters(), peer)
    loss = forward
    if family.loss != "elbo":

        def loss(x, y):
            return LOSSES[family.loss](forward(x), y)

    def update(*batch):
        optimizer.zero_grad()
        with mixed():
            value = loss(*batch)
        value.backward()
        optimizer.step()
        return value

    return update


def _game(family, players, peer, mixed):
    """update(x, noise or none) -> the sum of both players' losses.

    Eager, the discriminator judges generated images once for both players. A compiled
    one would find all its gradients in either backward pass; it judges them again.
    """
    generator, discriminator = players["generator"], players["discriminator"]
    optimizers = [_optimizer(family, p.parameters(), peer) for p in players.values()]
    make, judge = generator, discriminator
    compiled = peer == "torch-compile"
    if compiled:
        make, judge = torch.compile(generator), torch.compile(discriminator)
    softplus = functional.softplus

    def update(x, noise=None):
        for optimizer in optimizers:
            optimizer.zero_grad()
        if noise is None:
            noise = torch.randn(len(x), family.latent, device=x.device)
        with mixed():
            fake = make(noise)
            real, false = judge(x), judge(fake.detach() if compiled else fake)
            critic = softplus(-real).mean() + softplus(false).mean()
        if compiled:
            critic.backward()
            discriminator.requires_grad_(False)
            with mixed():
                maker = softplus(-judge(fake)).mean()
            maker.backward()
            discriminator.requires_grad_(True)
        else:
            maker = softplus(-false).mean()
            critic.backward(inputs=list(discriminator.parameters()), retain_graph=True)
            maker.backward(inputs=list(generator.parameters()))
        for optimizer in optimizers:
            optimizer.step()
        return critic.detach() + maker.detach()

    return update


def _captured(once):
    """A replay of once(), which has run a few times aside, as a capture asks for."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def _network(family, arrays, data, peer, setting):
    """update(*batch), and the number of its parameters; images into their format."""
    layout = torch.contiguous_format if peer == "torch-nchw" else torch.channels_last
    if family.loss == "game":
        players = {"generator": Generator(layout), "discriminator": Discriminator()}
        network, start = nn.ModuleDict(players), _game
    else:
        network, start = MODELS[family.name](), _learner
    copy_weights(network, under(arrays, "params"))
    if data[0].ndim == 4:
        data[0] = data[0].permute(0, 3, 1, 2).contiguous(memory_format=layout)
        network = network.to(memory_format=layout)
    network = network.to(data[0].device)
    update = start(family, network, peer, _mixed(setting, peer))
    return update, sum(p.numel() for p in network.parameters() if p.requires_grad)


def prepare(family: Family, arrays: Arrays, peer: str, setting: Setting) -> Trainer:
    """Initialised by torch, then given the weights of `arrays`."""
    device = configure(setting)
    data = [torch.tensor(arrays[n], device=device) for n in "xy" if n in arrays]
    if family.loss == "classes":
        data[1] = data[1].long()
    update, parameters = _network(family, arrays, data, peer, setting)
    size, full = family.batch, family.batch == family.rows
    at, replay = torch.arange(size, device=device), None

    def rows(at):
        return data if full else [a[at] for a in data]

    def step(i):
        start = i % family.epoch * size
        batch = rows(slice(start, start + size))
        if family.latent:  # else each update draws its own
            batch = [*batch, torch.tensor(arrays["noise"][i], device=device)]
        return update(*batch).item()

    def run(steps):
        nonlocal replay
        if peer == "torch-graph" and replay is None:
            replay = _captured(lambda: update(*rows(at)))
        for i in range(steps):
            if not full and i % family.epoch == 0:
                orders = torch.randperm(family.rows, device=device).split(size)
            now = at if full else orders[i % family.epoch]
            if replay:
                at.copy_(now)
                replay()
            else:
                update(*rows(now))
        if setting.gpu:
            torch.cuda.synchronize()

    peak = torch.cuda.max_memory_allocated if setting.gpu else None
    return Trainer(parameters, step, run, peak)


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
