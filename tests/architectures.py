"""Small models in which channels hang together in every way: a plugin file, as a user would write one."""

import torch
from torch import nn
from torch.nn import functional

from compress_cli.networks.models import Model, only_head, only_input


def conv(before, after, size=3, groups=1, **settings):
    return nn.Sequential(
        nn.Conv2d(before, after, size, padding=size // 2, groups=groups, bias=False, **settings),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    )


class Classifier(nn.Module):
    def __init__(self, width, classes):
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


class ResidualModule(Classifier):
    def __init__(self, channels, classes):
        super().__init__(24, classes)
        self.stem = conv(channels, 16)
        self.first, self.second = conv(16, 32), nn.Sequential(nn.Conv2d(32, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.wide, self.skip = conv(16, 24, stride=2), nn.Conv2d(16, 24, 1, stride=2)

    def features(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.second(self.first(x)))
        return torch.relu(self.wide(x) + self.skip(x))


class DepthwiseModule(Classifier):
    def __init__(self, channels, classes):
        super().__init__(32, classes)
        self.body = nn.Sequential(conv(channels, 16), conv(16, 16, groups=16), conv(16, 32, 1), conv(32, 32, groups=32))
        self.gate = nn.Conv2d(32, 32, 1)

    def features(self, x):
        x = self.body(x)
        return x * torch.sigmoid(self.gate(x.mean((2, 3), keepdim=True)))


class ConcatModule(Classifier):
    def __init__(self, channels, classes):
        super().__init__(40, classes)
        self.left, self.right, self.after = conv(channels, 16), conv(channels, 8, 1), conv(24, 16)

    def features(self, x):
        x = torch.cat([self.left(x), self.right(x)], 1)
        return torch.cat([x, self.after(x)], 1)


class GroupedModule(Classifier):
    def __init__(self, channels, classes):
        super().__init__(32, classes)
        self.first, self.grouped, self.last = conv(channels, 16), conv(16, 32, groups=4), conv(32, 32, groups=2)

    def features(self, x):
        return self.last(self.grouped(self.first(x)))


class AttentionModule(nn.Module):
    """Heads of a fixed width, as most code has them: these can't be made narrower, the layers behind them can."""

    def __init__(self, features, classes):
        super().__init__()
        self.embed, self.out = nn.Linear(features, 32), nn.Linear(32, 32)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.norm, self.up, self.down = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        x = self.embed(x.flatten(2))  # (N, tokens, 32)
        q, k, v = (layer(x).view(len(x), -1, 4, 8).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), -1, 32)
        x = self.norm(x + self.out(mixed))
        x = x + self.down(functional.gelu(self.up(x)))
        return self.fc(x.mean(1))


class TwoHeadedModule(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.stem, self.one, self.two = conv(channels, 16), nn.Linear(16, classes), nn.Linear(16, 3)

    def forward(self, x):
        x = self.stem(x).mean((2, 3))
        return {"one": self.one(x), "two": self.two(x)}


class Residual(Model):
    """An identity and a projected shortcut."""

    def build(self, signature):
        return ResidualModule(only_input(signature, self.type)[0], only_head(signature, self.type))


class Depthwise(Model):
    """Depthwise convolutions and a gate (squeeze and excitation)."""

    def build(self, signature):
        return DepthwiseModule(only_input(signature, self.type)[0], only_head(signature, self.type))


class Concat(Model):
    """Branches that are concatenated, twice."""

    def build(self, signature):
        return ConcatModule(only_input(signature, self.type)[0], only_head(signature, self.type))


class Grouped(Model):
    """Convolutions in 4 and in 2 groups."""

    def build(self, signature):
        return GroupedModule(only_input(signature, self.type)[0], only_head(signature, self.type))


class Flat(Model):
    """A convolution whose map is flattened into a linear layer."""

    def build(self, signature):
        channels, height, width = only_input(signature, self.type)
        return nn.Sequential(
            nn.ConvTranspose2d(channels, 8, 3, padding=1),
            nn.PReLU(8),
            conv(8, 16),
            nn.Flatten(),
            nn.Linear(16 * height * width, 32),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, only_head(signature, self.type)),
        )


class Attention(Model):
    """Attention with heads of a fixed width, and a wide middle behind it; takes the rows of an image as tokens."""

    def build(self, signature):
        _, _, width = only_input(signature, self.type)
        return nn.Sequential(nn.Flatten(1, 2), AttentionModule(width, only_head(signature, self.type)))


class TwoHeaded(Model):
    """One body, two heads."""

    def build(self, signature):
        return TwoHeadedModule(only_input(signature, self.type)[0], 10)
