"""Independent PyTorch implementations of mutual distillation and of stochastic precision, written from the formulas of the design, for comparison with the C++ core.
On values, in float64; gradients come from autograd alone.
"""
import torch
import torch.nn.functional as F

from quantized_torch import Model, Round, greatest_code

PURPOSE = 8  # docs/formats/random.md


def divergence(constant, logits, temperature):
    """KL(constant || logits) of softmax(. / T), mean over the batch."""
    p, q = F.softmax(constant.detach() / temperature, 1), F.softmax(logits / temperature, 1)
    return (p * (p / q).log()).sum(1).mean()


class Mutual:
    def __init__(self, teacher, students, temperature, student_weight, teacher_weight):
        self.teacher, self.students = teacher, students
        self.temperature, self.student_weight, self.teacher_weight = temperature, student_weight, teacher_weight

    def step(self, images, labels):
        """Puts the gradients on the learned tensors' grad. Returns cross-entropies and leaves' gradients, the teacher's first, and the mean divergence."""
        nets = [self.teacher, *self.students]
        for net in nets:
            net.begin_step()
        logits = [net.forward(images) for net in nets]
        entropies = [F.cross_entropy(one, labels) for one in logits]
        square = self.temperature**2
        of_students = [divergence(logits[0], one, self.temperature) for one in logits[1:]]
        of_teacher = sum(divergence(one, logits[0], self.temperature) for one in logits[1:]) / len(self.students)
        losses = [entropies[0] + self.teacher_weight * square * of_teacher]
        losses += [entropy + self.student_weight * square * kl for entropy, kl in zip(entropies[1:], of_students)]
        grads = [net.gradients(loss) for net, loss in zip(nets, losses)]
        return [entropy.detach() for entropy in entropies], grads, (sum(of_students) / len(of_students)).detach()


def philox(key, counter):
    """Philox4x32-10 (Salmon et al., SC 2011)."""
    mask = 0xFFFFFFFF
    k0, k1 = key & mask, key >> 32
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return c0, c1, c2, c3


def integer_below(bound, seed, epoch, batch, place):
    for retry in range(256):
        for word in philox(seed, (PURPOSE, epoch, batch, place + (retry << 24))):
            if (word * bound) % 2**32 >= 2**32 % bound:
                return word * bound >> 32
    raise AssertionError("no word was accepted")


def rounded_units(units, share, seed, epoch, batch):
    """The names of those that are quantised at a step."""
    order = list(units)
    chosen = round(share * len(order))  # ties to even
    for place in range(chosen):
        other = place + integer_below(len(order) - place, seed, epoch, batch, place)
        order[place], order[other] = order[other], order[place]
    return set(order[:chosen])


class StochasticModel(Model):
    """rounded: names of the layers that are quantised in this step, with the activation that they read. A shortcut's convolution goes with the first layer of its
    block, which reads the same activation."""

    rounded = frozenset()

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.ties = 0  # pooling windows of unrounded activations with several maxima inside (0, 1): at the ends the clip lets no gradient pass

    def units(self):
        return [name for name in self.quantized if ".downsample." not in name]

    def is_rounded(self, name):
        return (name if ".downsample." not in name else name.split(".downsample.")[0] + ".conv1.weight") in self.rounded

    def begin_step(self):
        super().begin_step()
        for name in self.quantized:
            if not self.is_rounded(name):
                t = torch.tanh(self.learned[name])
                self.quantized_graph[name] = t / t.abs().max()
                self.leaves[name] = self.quantized_graph[name].detach().requires_grad_()

    def activate(self, y, bits, norm=None):
        readers = self.units()
        number = len(self.activations)
        if number < len(readers) and readers[number] not in self.rounded:
            bits = 32
        return super().activate(y, bits, norm)

    def normalized(self, x, x_bits, name, norm, stride=1, padding=None):
        """A rounded layer is summed on integers, exactly: an unrounded activation behind it keeps every tie, and a pooling then takes the first of the greatest,
        as PyTorch does. Sums of values a/n would part ties by their last bits."""
        if name not in self.quantized or not self.is_rounded(name):
            return super().normalized(x, x_bits, name, norm, stride, padding)
        n_a, n_w = greatest_code(x_bits), greatest_code(self.weight_width(name))
        a, o = Round.apply(x * n_a), Round.apply(self.leaves[name] * n_w)
        if o.dim() == 2:
            sums = F.linear(a, o)
        else:
            sums = F.conv2d(a, o, stride=stride, padding=o.size(2) // 2 if padding is None else padding)
        return self.batch_norm(sums / (n_a * n_w), norm)

    def max_pool(self, x, size, stride=None, padding=0):
        pooled = super().max_pool(x, size, stride, padding)
        if self.activations[-1][1] == 32 and padding == 0:
            step = size if stride is None else stride
            windows = x.detach().unfold(2, size, step).unfold(3, size, step).flatten(4)
            tied = (windows == pooled.detach().unsqueeze(-1)).sum(-1) > 1
            self.ties += (tied & (pooled > 0) & (pooled < 1)).sum().item()
        return pooled
