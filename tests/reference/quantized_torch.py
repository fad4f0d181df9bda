"""An independent PyTorch implementation of the quantised networks, written from the formulas of the design, for comparison with the C++ core.

Two readings of the same layer:
  values: what a plain PyTorch user would write, on values w_q and a/n, with F.conv2d and F.batch_norm; float64.
  codes:  the expressions of the integer contract on integer codes, float32 where it says float32.
Gradients come from autograd alone; only rounding is straight-through.
"""
import math

import torch
import torch.nn.functional as F

import networks

EPSILON = 1e-5
BATCH_NORM_MOMENTUM = 0.1


def greatest_code(bits):
    return 2**bits - 1


class Round(torch.autograd.Function):
    """Ties to even; the gradient passes."""

    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, grad):
        return grad


def contract_tanh(x):
    """The contract's tanh: the same operations in the same order, each rounded to float64, then once to x's type."""
    wide = x.double()
    a = wide.abs().clamp(max=20.0)
    y = a + a
    k = torch.round(y * 1.4426950408889634)
    r = (y - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    p = torch.full_like(r, 1 / math.factorial(14))
    for order in range(13, 0, -1):
        p = p * r
        p = p + 1 / math.factorial(order)
    p = p * r
    power = torch.ldexp(torch.ones_like(k), k)
    e = power * p
    e = e + (power - 1)
    t = e / (e + 2)
    return torch.where(wide < 0, -t, t).to(x.dtype)


def weight_codes(latent, bits):
    """Odd integers o = 2c - n, by the contract's expression in latent's type."""
    n = greatest_code(bits)
    t = contract_tanh(latent)
    c = torch.round(n * (t / (2 * t.abs().max()) + 0.5))
    return 2 * c - n


class ContractTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        t = contract_tanh(x)
        ctx.save_for_backward(t)
        return t

    @staticmethod
    def backward(ctx, grad):
        (t,) = ctx.saved_tensors
        return grad * (1 - t * t)


def weight_values(latent, bits, tanh=torch.tanh):
    """w_q with autograd's gradient, also through the maximum."""
    if bits == 32:
        return latent
    n = greatest_code(bits)
    t = tanh(latent)
    return 2 * Round.apply(n * (t / (2 * t.abs().max()) + 0.5)) / n - 1


# Where a uniform quantiser of 2^bits levels has the least mean square error on Gaussian values, in standard deviations.
STD_CLIP = {2: 1.4936, 4: 2.5140}


def std_weight_values(latent, bits):
    """weight_norm std: w_q with autograd's gradient, also through the root mean square."""
    n = greatest_code(bits)
    t = (latent / (STD_CLIP[bits] * latent.square().mean().sqrt())).clamp(-1, 1)
    return 2 * Round.apply(n * (t / 2 + 0.5)) / n - 1


def activation_values(x, bits, relu=False):
    if bits == 32:
        return F.relu(x) if relu else x.clamp(0, 1)
    n = greatest_code(bits)
    return Round.apply(n * x.clamp(0, 1)) / n


# Of normalised pixels, with option first_last; as in the dumps.
PIXELS = (-2.5, 2.0)


def pixel_values(images):
    """8-bit codes with an integer zero point. The value of the zero point is 0, with which convolutions pad."""
    step = (PIXELS[1] - PIXELS[0]) / 255
    zero_point = round(-PIXELS[0] / step)
    return (torch.round((images / step + zero_point).clamp(0, 255)) - zero_point) * step


import learned_torch  # noqa: E402, it needs what is above


class Model:
    """A network, told from its tensors' names (networks.py). tensors: name -> tensor, as the core names them; learned ones become autograd leaves, others
    running statistics."""

    def __init__(self, tensors, weight_bits, activation_bits, relu, on_codes, option=""):
        self.statistics = {name: t.clone() for name, t in tensors.items() if ".running_" in name}
        self.learned = {name: t.clone().requires_grad_() for name, t in tensors.items() if ".running_" not in name}
        self.weight_bits, self.activation_bits, self.relu, self.on_codes = weight_bits, activation_bits, relu, on_codes
        self.first = "conv1.weight"
        self.float_shortcuts = option.endswith("float_shortcuts")
        self.option = option.removesuffix("_float_shortcuts")
        self.last = max(n for n in self.learned if n.startswith("fc") and n.endswith(".weight"))
        self.first_last = option == "first_last" and weight_bits != 32
        self.last_bits = 8 if self.first_last else 32
        kept = () if self.first_last else (self.first, self.last)
        self.quantized = [n for n in self.learned if n.endswith("weight") and self.learned[n].dim() > 1 and n not in kept]
        if weight_bits == 32:
            self.quantized = []
        self.leaves = {}
        self.activations = []

    # x and the result are values; on codes, every value is code / n and the code is recovered exactly.
    def layer(self, x, x_bits, name, norm, bits, shortcut=None, stride=1, padding=None):
        y = self.normalized(x, x_bits, name, norm, stride, padding)
        if shortcut is not None:
            y = y + shortcut
        width = self.activation_width(name, bits)
        out = self.activate(y, width, norm)
        # What a shortcut from here carries.
        self.carried = self.unrounded(y, width, norm) if self.float_shortcuts and bits != 32 else out
        return out

    def weight_width(self, name):
        """name: of the parameter."""
        if ".downsample." in name and self.option.startswith("shortcut"):
            return int(self.option.removeprefix("shortcut"))
        if self.option == "layers":
            if name == "layer3.0.conv1.weight":
                return 32
            if name.startswith("layer1."):
                return 8
            if name.startswith("layer2.0.conv"):
                return 2
        return self.weight_bits

    def activation_width(self, name, bits):
        """name: of the parameter before the activation; bits: what the network says."""
        if self.option == "layers" and bits != 32 and name.endswith(".conv1.weight"):
            return 8 if name.startswith("layer1.") else 3 if name.startswith("layer3.") else bits
        return bits

    def activate(self, y, bits, norm=None):
        """norm: name of the batch norm before, where quantisers learn."""
        scale = 1 / greatest_code(bits)
        if bits == 32 or self.option not in ("lsq", "pact"):
            out = activation_values(y, bits, self.relu)
        elif self.option == "lsq":
            step = self.scalar(norm)
            out, scale = learned_torch.lsq_activations(y, step, bits), step.item()
        else:
            clip = self.scalar(norm)
            out, scale = learned_torch.pact_activations(y, clip, bits), clip.item() / greatest_code(bits)
        self.activations.append((out.detach(), bits, scale))
        return out

    def scalar(self, norm):
        return self.learned[f"{learned_torch.activation_of(self, norm)}.{'step' if self.option == 'lsq' else 'clip'}"]

    def unrounded(self, y, bits, norm):
        if self.option == "lsq":
            return learned_torch.lsq_clipped(y, self.scalar(norm), bits)
        return learned_torch.pact_clipped(y, self.scalar(norm)) if self.option == "pact" else y.clamp(0, 1)

    def quantized_values(self, name, width, tanh):
        if self.option == "std":
            return std_weight_values(self.learned[name], width)
        if self.option == "lsq":
            return learned_torch.lsq_weights(self.learned[name], self.learned[f"{name}_step"], width)
        return weight_values(self.learned[name], width, tanh)

    def normalized(self, x, x_bits, name, norm, stride=1, padding=None):
        weight = self.leaves[name]
        linear = weight.dim() == 2
        if padding is None and not linear:
            padding = weight.size(2) // 2
        if not self.on_codes:
            return self.batch_norm(F.linear(x, weight) if linear else F.conv2d(x, weight, stride=stride, padding=padding), norm)
        gamma, beta = self.learned[f"{norm}.weight"], self.learned[f"{norm}.bias"]
        mean, variance = self.statistics[f"{norm}.running_mean"], self.statistics[f"{norm}.running_var"]
        return self.sums_to_x(x, x_bits, name, weight, linear, stride, padding, gamma, beta, mean, variance)

    def max_pool(self, x, size, stride=None, padding=0):
        return F.max_pool2d(x, size, stride, padding)

    def batch_norm(self, values, norm):
        mean, variance = self.statistics[f"{norm}.running_mean"], self.statistics[f"{norm}.running_var"]
        gamma, beta = self.learned[f"{norm}.weight"], self.learned[f"{norm}.bias"]
        return F.batch_norm(values, mean, variance, gamma, beta, training=True, momentum=BATCH_NORM_MOMENTUM, eps=EPSILON)

    def sums_to_x(self, x, x_bits, name, weight, linear, stride, padding, gamma, beta, mean, variance):
        dtype = x.dtype
        a, a_scale, o, o_scale = x, 1.0, weight, 1.0
        if x_bits != 32:
            n = greatest_code(x_bits)
            a, a_scale = Round.apply(x * n), 1.0 / n
        if name in self.quantized:
            n = greatest_code(self.weight_bits)
            o, o_scale = Round.apply(weight * n), 1.0 / n
        integers = x_bits != 32 and name in self.quantized
        # Integer sums are exact in float64; the first layer's are float32 sums of the same library.
        if integers:
            a, o = a.double(), o.double()
        s = F.linear(a, o) if linear else F.conv2d(a, o, stride=stride, padding=padding)
        scale = a_scale * o_scale
        wide = s.double()
        axes = [0] if linear else [0, 2, 3]
        shape = [1, -1] if linear else [1, -1, 1, 1]
        count = s.numel() // s.size(1)
        sum_mean = wide.sum(axes) / count
        sum_variance = (wide * wide).sum(axes) / count - sum_mean * sum_mean
        with torch.no_grad():
            mean.mul_(1 - BATCH_NORM_MOMENTUM).add_(sum_mean * scale * BATCH_NORM_MOMENTUM)
            variance.mul_(1 - BATCH_NORM_MOMENTUM).add_(sum_variance * scale * scale * BATCH_NORM_MOMENTUM * count / (count - 1))
        slope = gamma.double() / torch.sqrt(sum_variance * (scale * scale) + EPSILON)
        alpha = (slope * scale).to(dtype)
        shift = (beta.double() - slope * (sum_mean * scale)).to(dtype)
        # A fused multiply-add of float32: the product of two is exact in float64, so one rounding is left but for ties of probability 2^-29.
        return (s.to(dtype).double() * alpha.double().view(shape) + shift.double().view(shape)).to(dtype)

    def begin_step(self):
        """The weights as the forward pass reads them: autograd leaves of their own, as in the core, so that their gradients can be compared."""
        tanh = ContractTanh.apply if self.on_codes else torch.tanh
        self.quantized_graph = {
            name: self.quantized_values(name, width, tanh)
            for name in self.quantized
            if (width := self.weight_width(name)) != 32
        }
        self.leaves = {name: t for name, t in self.learned.items() if t.dim() > 1}
        for name, values in self.quantized_graph.items():
            self.leaves[name] = values.detach().requires_grad_()
        self.activations = []
        self.hints = {}  # what guided training compares, by the core's names

    def forward(self, images):
        return networks.forward_of(self.learned)(self, images)

    def pixels(self, images):
        return pixel_values(images) if self.first_last else images

    def last_layer(self, x):
        logits = F.linear(x, self.leaves[self.last])
        if self.first_last:
            logits = self.learned["logit_scale"] * logits
        return logits + self.learned[self.last.replace("weight", "bias")]

    def gradients(self, loss):
        """dL/dleaf of every learned tensor (of a quantised weight: by w_q), and puts dL/dlatent on the learned tensors' grad."""
        leaves = {name: self.leaves.get(name, t) for name, t in self.learned.items() if not name.endswith("weight_step")}
        grads = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
        for name, grad in grads.items():
            t = self.learned[name]
            t.grad = grad
            if name in self.quantized_graph:
                inputs = [t] + [step for step in [self.learned.get(f"{name}_step")] if step is not None]
                for tensor, latent_grad in zip(inputs, torch.autograd.grad(self.quantized_graph[name], inputs, grad)):
                    tensor.grad = latent_grad
        return grads
