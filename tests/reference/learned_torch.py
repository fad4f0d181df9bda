"""LSQ and PACT as their papers give them, for quantized_torch.py: values and autograd alone."""
import math

import torch

from quantized_torch import Round, greatest_code


def scale_gradient(x, factor):
    """x, whose gradient is multiplied."""
    scaled = x * factor
    return x.detach() - scaled.detach() + scaled


def lsq(v, step, low, high, count):
    """arXiv 1902.08153, appendix: the pseudocode. count: weights of the tensor, or features of one image."""
    s = scale_gradient(step, 1 / math.sqrt(count * high))
    return Round.apply((v / s).clamp(low, high)) * s


def lsq_weights(w, step, bits):
    return lsq(w, step, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, w.numel())


def lsq_activations(x, step, bits):
    return lsq(x, step, 0, greatest_code(bits), x[0].numel())


def lsq_clipped(x, step, bits):
    """What comes before rounding: clip(x, 0, n s)."""
    n = greatest_code(bits)
    return pact_clipped(x, scale_gradient(step, 1 / math.sqrt(x[0].numel() * n)) * n)


def pact_clipped(x, clip):
    return torch.minimum(x.clamp(min=0), clip)


def pact_activations(x, clip, bits):
    """arXiv 1805.06085, equations 1 to 3: the gradient passes below the clip, and reaches the clip from above it."""
    n = greatest_code(bits)
    y = pact_clipped(x, clip)
    return y + (torch.round(y * n / clip) * clip / n - y).detach()


def activation_of(model, norm):
    """The name of the activation behind a batch norm; each has a scalar of its own."""
    return "relu" if norm == "bn1" and "layer1.0.conv1.weight" in model.learned else norm.replace("bn", "relu")


def is_scalar(name):
    return name.endswith((".weight_step", ".step", ".clip")) or name == "logit_scale"


def parameter_groups(learned, weight_decay, clip_weight_decay, norms=(), norms_factor=1):
    """For torch.optim. norms: prefixes of the batch norms' parameters, whose groups have the factor of the learning rate that each group carries."""
    clips = [t for name, t in learned.items() if name.endswith(".clip")]
    steps = [t for name, t in learned.items() if name.endswith("step") or name == "logit_scale"]
    scaled = {name: t for name, t in learned.items() if name.startswith(tuple(norms))}
    others = [t for name, t in learned.items() if not is_scalar(name) and name not in scaled]
    groups = ((others, weight_decay, 1), (list(scaled.values()), weight_decay, norms_factor), (clips, clip_weight_decay, 1), (steps, 0, 1))
    return [{"params": p, "weight_decay": decay, "factor": factor} for p, decay, factor in groups if p]


def halve_at_most(learned, before, optimizer):
    """Learned scalars stay positive: one that would fall below half of what it was becomes that half, and its momentum 0."""
    for name, value in before.items():
        if learned[name].item() < value / 2:
            learned[name].data.fill_(value / 2)
            optimizer.state[learned[name]]["momentum_buffer"].zero_()
