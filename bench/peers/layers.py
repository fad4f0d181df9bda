"""The layers of each kind of peer, as the networks take them: a convolution, the activation after it, and the activation before the average pooling."""
import torch
from torch import nn
import torch.nn.functional as F

BITS = 4


class RoundToCodes(torch.autograd.Function):
    """To the nearest of the 2^BITS values in [0, 1]; the gradient passes."""

    @staticmethod
    def forward(ctx, x):
        n = 2**BITS - 1
        return torch.round(x * n) / n

    @staticmethod
    def backward(ctx, grad):
        return grad


class DorefaConv2d(nn.Conv2d):
    """DoReFa-Net (arXiv 1606.06160), written as the public PyTorch repositories write it."""

    def forward(self, x):
        weight = torch.tanh(self.weight)
        weight = weight / (2 * weight.abs().max()) + 0.5
        return F.conv2d(x, 2 * RoundToCodes.apply(weight) - 1, self.bias, self.stride, self.padding)


class Clip(nn.Module):
    def forward(self, x):
        return torch.clamp(x, 0, 1)


class DorefaActivation(nn.Module):
    def forward(self, x):
        return RoundToCodes.apply(torch.clamp(x, 0, 1))


class Plain:
    conv = nn.Conv2d

    @staticmethod
    def activation():
        return nn.ReLU(inplace=True)

    last_activation = activation


class Dorefa:
    conv = DorefaConv2d
    activation = DorefaActivation
    last_activation = Clip


class Brevitas:
    def __init__(self):
        import brevitas.nn
        self.nn = brevitas.nn

    def conv(self, *shape, **options):
        return self.nn.QuantConv2d(*shape, weight_bit_width=BITS, **options)

    def activation(self):
        # As it comes: in the first 300 steps it takes percentiles of all activations, which is slow, and so is what is measured.
        return self.nn.QuantReLU(bit_width=BITS)

    def last_activation(self):
        return nn.ReLU(inplace=True)


class SettledBrevitas(Brevitas):
    """As Brevitas runs after its first 300 steps: the percentiles are taken in the first step."""

    def activation(self):
        return self.nn.QuantReLU(bit_width=BITS, collect_stats_steps=1)


KINDS = {'plain': Plain, 'dorefa': Dorefa, 'brevitas': Brevitas, 'brevitas_settled': SettledBrevitas}
