"""An independent PyTorch implementation of guided training, written from the formulas of the design, for comparison with the C++ core. On values, in float64;
gradients come from autograd alone, and each net gets its own from its own loss, with the other's features detached.
"""
import torch.nn.functional as F

from journal_torch import divergence
from quantized_torch import activation_values


def distance(full, low, bits):
    """R of one hint point: 1/2 mean (Q(full) - Q(low))^2. Q leaves what has few bits already as it is."""
    return 0.5 * (activation_values(full, bits) - activation_values(low, bits)).square().mean()


def term(own, other, hint):
    """R of one hint point in the loss of the net that has `own`. hint: ('bits', width of Q), or ('temperature', T) of logits."""
    kind, value = hint
    return distance(other.detach(), own, value) if kind == 'bits' else value**2 * divergence(other, own, value)


class GuidedPair:
    def __init__(self, low, full, hint_points, weight):
        """hint_points: name -> ('bits', width of Q there) or ('temperature', T)."""
        self.low, self.full, self.hint_points, self.weight = low, full, hint_points, weight
        self.grads = {}

    def step(self, images, labels):
        """Puts the gradients on the learned tensors' grad and into grads. Returns the cross-entropies by net, and R."""
        entropies = {}
        for net, model in (('low', self.low), ('full', self.full)):
            model.begin_step()
            logits = model.hints['logits'] = model.forward(images)
            entropies[net] = F.cross_entropy(logits, labels)
        pairs = [(self.low.hints[name], self.full.hints[name], hint) for name, hint in self.hint_points.items()]
        hints = {'low': sum(term(low, full, hint) for low, full, hint in pairs), 'full': sum(term(full, low, hint) for low, full, hint in pairs)}
        for net, model in (('low', self.low), ('full', self.full)):
            self.grads[net] = model.gradients(entropies[net] + self.weight * hints[net])
        return {net: entropy.detach() for net, entropy in entropies.items()}, hints['low'].detach()
