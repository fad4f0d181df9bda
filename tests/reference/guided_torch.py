"""An independent PyTorch implementation of guided training, written from the formulas of the design, for comparison with the C++ core. On values, in float64;
gradients come from autograd alone, and each net gets its own from its own loss, with the other's features detached.
"""
import torch.nn.functional as F

from quantized_torch import activation_values


def distance(full, low, bits):
    """R of one hint point: 1/2 mean (Q(full) - Q(low))^2. Q leaves what has few bits already as it is. bits None, of logits: without Q."""
    if bits is not None:
        full, low = activation_values(full, bits), activation_values(low, bits)
    return 0.5 * (full - low).square().mean()


class GuidedPair:
    def __init__(self, low, full, hint_points, weight):
        """hint_points: name -> width of Q there."""
        self.low, self.full, self.hint_points, self.weight = low, full, hint_points, weight
        self.grads = {}

    def step(self, images, labels):
        """Puts the gradients on the learned tensors' grad and into grads. Returns the cross-entropies by net, and R."""
        entropies = {}
        for net, model in (('low', self.low), ('full', self.full)):
            model.begin_step()
            logits = model.hints['logits'] = model.forward(images)
            entropies[net] = F.cross_entropy(logits, labels)
        pairs = [(self.full.hints[name], self.low.hints[name], bits) for name, bits in self.hint_points.items()]
        hints = {'low': sum(distance(full.detach(), low, bits) for full, low, bits in pairs), 'full': sum(distance(full, low.detach(), bits) for full, low, bits in pairs)}
        for net, model in (('low', self.low), ('full', self.full)):
            self.grads[net] = model.gradients(entropies[net] + self.weight * hints[net])
        return {net: entropy.detach() for net, entropy in entropies.items()}, hints['low'].detach()
