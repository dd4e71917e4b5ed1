"""PPO on CartPole: eight seeds as one program beside gymnasium and PyTorch.

`python -m benchmarks.rl` writes benchmarks/RL.md. Both have the same setting: 4
environments of 128 steps, 4 epochs of 4 parts, two networks of two layers of 64. The
peer trains one seed; eight of its, one after the other in a process, take as long a
step. Parts are measured in turns, after all is compiled.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parent / "RL.md"
ENVIRONMENTS, HORIZON, EPOCHS, PARTS, SEEDS = 4, 128, 4, 4, 8
STEPS = ENVIRONMENTS * HORIZON


class Zoo:
    """A sweep, a number of rollouts at a time."""

    def __init__(self, seeds):
        from train import many, optim, source
        from train.many.member import data_of
        from zoo import actors, environments, rl

        world = environments.cart_pole()
        network = actors.network(world)
        self.seeds = seeds

        def make():
            return rl.task(world, network), optim.optimizer("adam", 2.5e-4, clip=0.5)

        began = time.perf_counter()
        data, table = data_of(source.nothing(), None), many.settings(seeds, {})
        self.members = many.Population(make, data, table, mapping="vmap").begin()
        self.members.on(1)
        self.compiling = time.perf_counter() - began
        self.run(2)

    def run(self, rollouts):
        """Steps of environments a second."""
        self.members.pace = 1e9
        began = time.perf_counter()
        self.members.on(self.members.now + rollouts * EPOCHS * PARTS)
        seconds = time.perf_counter() - began
        return self.seeds * rollouts * STEPS / seconds


class Torch:
    """The same by gymnasium and PyTorch, plainly written."""

    def __init__(self, threads):
        import gymnasium
        import torch
        from torch import nn

        torch.set_num_threads(threads)

        def tower(outputs, scale):
            layers = [nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh()]
            layers.append(nn.Linear(64, outputs))
            for layer, gain in zip(layers[::2], (2**0.5, 2**0.5, scale), strict=True):
                nn.init.orthogonal_(layer.weight, gain)
                nn.init.zeros_(layer.bias)
            return nn.Sequential(*layers)

        self.threads = threads
        self.policy, self.value = tower(2, 0.01), tower(1, 1.0)
        self.parameters = [*self.policy.parameters(), *self.value.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=2.5e-4, eps=1e-5)
        worlds = [lambda: gymnasium.make("CartPole-v1")] * ENVIRONMENTS
        self.worlds = gymnasium.vector.SyncVectorEnv(worlds)
        self.seen = torch.as_tensor(self.worlds.reset(seed=0)[0])
        self.over = torch.zeros(ENVIRONMENTS)
        self.run(2)

    def run(self, rollouts):
        """Steps of environments a second."""
        import torch

        torch.set_num_threads(self.threads)
        began = time.perf_counter()
        for _ in range(rollouts):
            self._learn(*self._play())
        return rollouts * STEPS / (time.perf_counter() - began)

    def _play(self):
        import torch

        shape = HORIZON, ENVIRONMENTS
        seen, over = torch.zeros((*shape, 4)), torch.zeros(shape)
        action, odds, value, reward = (torch.zeros(shape) for _ in range(4))
        with torch.no_grad():
            for t in range(HORIZON):
                seen[t], over[t] = self.seen, self.over
                choice = torch.distributions.Categorical(logits=self.policy(self.seen))
                action[t] = taken = choice.sample()
                odds[t], value[t] = choice.log_prob(taken), self.value(self.seen)[:, 0]
                new, gain, ended, cut, _ = self.worlds.step(taken.numpy())
                self.seen = torch.as_tensor(new)
                self.over = torch.as_tensor(np.logical_or(ended, cut)).float()
                reward[t] = torch.as_tensor(gain)
            advantage, last = torch.zeros(shape), torch.zeros(ENVIRONMENTS)
            after, goes_on = self.value(self.seen)[:, 0], 1 - self.over
            for t in reversed(range(HORIZON)):
                surprise = reward[t] + 0.99 * goes_on * after - value[t]
                advantage[t] = last = surprise + 0.99 * 0.95 * goes_on * last
                after, goes_on = value[t], 1 - over[t]
        return seen, action, odds, value, advantage

    def _learn(self, *played):
        import torch

        seen, action, odds, value, advantage = (a.flatten(0, 1) for a in played)
        target = advantage + value
        for _ in range(EPOCHS):
            for at in torch.randperm(STEPS).chunk(PARTS):
                choice = torch.distributions.Categorical(logits=self.policy(seen[at]))
                ratio = (choice.log_prob(action[at]) - odds[at]).exp()
                some = advantage[at]
                some = (some - some.mean()) / (some.std() + 1e-8)
                gain = torch.min(some * ratio, some * ratio.clamp(0.8, 1.2))
                new, old = self.value(seen[at])[:, 0], value[at]
                moved = old + (new - old).clamp(-0.2, 0.2)
                wrong = torch.max((new - target[at]) ** 2, (moved - target[at]) ** 2)
                spread = choice.entropy().mean()
                loss = -gain.mean() + 0.25 * wrong.mean() - 0.01 * spread
                self.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.parameters, 0.5)
                self.optimizer.step()


def main():
    """Measure in turns, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--devices", type=int, default=os.cpu_count())
    given = parser.parse_args()
    import jax

    jax.config.update("jax_num_cpu_devices", given.devices)
    import torch

    runs = {
        f"zoo, {SEEDS} seeds": Zoo(SEEDS),
        "zoo, 1 seed": Zoo(1),
        "PyTorch, 1 thread": Torch(1),
        f"PyTorch, {given.devices} threads": Torch(given.devices),
    }
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            speeds[name].append(run.run(100 if name.startswith("zoo") else 8))
    rates = {name: float(np.median(found)) for name, found in speeds.items()}
    peer = max(rate for name, rate in rates.items() if name.startswith("PyTorch"))
    lines = [
        "# Reinforcement learning",
        "",
        "Written by `python -m benchmarks.rl`: PPO on CartPole, playing and learning,",
        f"in steps of environments a second, the median of {given.rounds} rounds in "
        "turns;",
        f"{os.cpu_count()} CPU cores, jax {jax.__version__}, torch "
        f"{torch.__version__}. The ratio is to the faster",
        "of PyTorch's. Compiling, which is left out, takes "
        f"{runs[f'zoo, {SEEDS} seeds'].compiling:.1f} s for {SEEDS} seeds.",
        "",
        "| | steps a second | lowest | highest | ratio |",
        "|---|---|---|---|---|",
    ]
    for name, rate in rates.items():
        low, high = min(speeds[name]), max(speeds[name])
        lines.append(
            f"| {name} | {rate:,.0f} | {low:,.0f} | {high:,.0f} | {rate / peer:.1f} |"
        )
    PAGE.write_text("\n".join(lines) + "\n")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
