"""The networks of quantized_torch.py as functions of a Model and images, and the names and shapes that their tensors must have."""
import itertools

import torch.nn.functional as F


def forward_of(tensors):
    """The network that has tensors of these names."""
    if "bn.weight" in tensors:
        return preactivation_resnet
    if "conv5.weight" in tensors:
        return alexnet
    return resnet if "layer1.0.conv1.weight" in tensors else convnet28


def blocks_of(model):
    """(name, group, first of its group, last of all)"""
    names = []
    for group in itertools.count(1):
        if f"layer{group}.0.conv1.weight" not in model.learned:
            break
        for i in itertools.count():
            if f"layer{group}.{i}.conv1.weight" not in model.learned:
                break
            names.append((f"layer{group}.{i}", group, i == 0))
    return [(name, group, first, name == names[-1][0]) for name, group, first in names]


def hint_name(model, name):
    """What the core calls the output of this block: the last one of a group is called as the group."""
    group, block = name.rsplit(".", 1)
    return name if f"{group}.{int(block) + 1}.conv1.weight" in model.learned else group


def padded(x, channels):
    """Option A."""
    added = channels - x.size(1)
    return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, added // 2, added - added // 2))


def resnet(model, images):
    bits = model.activation_bits
    imagenet = model.learned["conv1.weight"].size(2) == 7
    x = model.layer(model.pixels(images), 32, "conv1.weight", "bn1", bits, stride=2 if imagenet else 1)
    if imagenet:
        x, model.carried = model.max_pool(x, 3, 2, 1), model.max_pool(model.carried, 3, 2, 1)
    for name, group, first, last in blocks_of(model):
        stride = 2 if first and group > 1 else 1
        bottleneck = f"{name}.conv3.weight" in model.learned
        shortcut = model.carried
        inner = model.layer(x, bits, f"{name}.conv1.weight", f"{name}.bn1", bits, stride=1 if bottleneck else stride)
        if bottleneck:
            inner = model.layer(inner, bits, f"{name}.conv2.weight", f"{name}.bn2", bits, stride=stride)
        out = 3 if bottleneck else 2
        if f"{name}.downsample.0.weight" in model.learned:
            shortcut = model.normalized(x, bits, f"{name}.downsample.0.weight", f"{name}.downsample.1", stride, 0)
        elif stride != 1:
            shortcut = padded(shortcut, model.learned[f"{name}.conv{out}.weight"].size(0))
        x = model.layer(inner, bits, f"{name}.conv{out}.weight", f"{name}.bn{out}", model.last_bits if last else bits, shortcut=shortcut)
        model.hints[hint_name(model, name)] = x
    return model.last_layer(x.mean((2, 3)))


def preactivation_resnet(model, images):
    """On values alone: the stream is no code."""
    bits = model.activation_bits
    stream = F.conv2d(model.pixels(images), model.leaves["conv1.weight"], padding=1)
    for name, group, first, _ in blocks_of(model):
        stride = 2 if first and group > 1 else 1
        outer = model.activate(model.batch_norm(stream, f"{name}.bn1"), bits)
        inner = model.layer(outer, bits, f"{name}.conv1.weight", f"{name}.bn2", bits, stride=stride)
        branch = F.conv2d(inner, model.leaves[f"{name}.conv2.weight"], padding=1)
        stream = branch + (stream if stride == 1 else padded(stream, branch.size(1)))
    return model.last_layer(model.activate(model.batch_norm(stream, "bn"), model.last_bits).mean((2, 3)))


def alexnet(model, images):
    bits = model.activation_bits
    imagenet = model.learned["conv1.weight"].size(2) == 11
    x = model.layer(model.pixels(images), 32, "conv1.weight", "bn1", bits, stride=4 if imagenet else 1, padding=2 if imagenet else 1)
    x = model.max_pool(x, 3, 2)
    x = model.max_pool(model.layer(x, bits, "conv2.weight", "bn2", bits), 3, 2)
    for i in (3, 4, 5):
        x = model.layer(x, bits, f"conv{i}.weight", f"bn{i}", bits)
    x = model.max_pool(x, 3, 2).flatten(1)
    x = model.layer(x, bits, "fc1.weight", "bn6", bits)
    return model.last_layer(model.layer(x, bits, "fc2.weight", "bn7", model.last_bits))


def convnet28(model, images):
    bits = model.activation_bits
    x = model.hints["conv1"] = model.layer(model.pixels(images), 32, "conv1.weight", "bn1", bits)
    x = model.hints["conv2"] = model.layer(model.max_pool(x, 2), bits, "conv2.weight", "bn2", bits)
    x = model.hints["conv3"] = model.layer(model.max_pool(x, 2), bits, "conv3.weight", "bn3", bits)
    x = model.hints["fc1"] = model.layer(model.max_pool(x, 2).flatten(1), bits, "fc1.weight", "bn4", model.last_bits)
    return model.last_layer(x)


def batch_norm_names(name, channels):
    return {f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")}


def resnet_names(blocks, bottleneck, convolution_shortcuts):
    """torchvision's names and shapes of a ResNet for 1000 classes (four groups), or the like of it for 10 (three groups)."""
    imagenet = len(blocks) == 4
    width = channels = 64 if imagenet else 16
    names = {"conv1.weight": (width, 3, 7, 7) if imagenet else (width, 3, 3, 3), **batch_norm_names("bn1", width)}
    for group, count in enumerate(blocks, 1):
        for i in range(count):
            block = f"layer{group}.{i}"
            out = width * 4 if bottleneck else width
            layers = [(channels, width, 1), (width, width, 3), (width, out, 1)] if bottleneck else [(channels, width, 3), (width, width, 3)]
            for number, (a, b, kernel) in enumerate(layers, 1):
                names[f"{block}.conv{number}.weight"] = (b, a, kernel, kernel)
                names.update(batch_norm_names(f"{block}.bn{number}", b))
            if convolution_shortcuts and (channels != out or (group > 1 and i == 0)):
                names[f"{block}.downsample.0.weight"] = (out, channels, 1, 1)
                names.update(batch_norm_names(f"{block}.downsample.1", out))
            channels = out
        width *= 2
    classes = 1000 if imagenet else 10
    return {**names, "fc.weight": (classes, channels), "fc.bias": (classes,)}


def preactivation_names(blocks):
    names, channels, width = {"conv1.weight": (16, 3, 3, 3)}, 16, 16
    for group in (1, 2, 3):
        for i in range(blocks):
            block = f"layer{group}.{i}"
            names.update({**batch_norm_names(f"{block}.bn1", channels), f"{block}.conv1.weight": (width, channels, 3, 3)})
            names.update({**batch_norm_names(f"{block}.bn2", width), f"{block}.conv2.weight": (width, width, 3, 3)})
            channels = width
        width *= 2
    return {**names, **batch_norm_names("bn", 64), "fc.weight": (10, 64), "fc.bias": (10,)}


def alexnet_names(first, pooled, classes):
    """first: shape of conv1; pooled: inputs of fc1."""
    shapes = [first, (192, 64, 5, 5), (384, 192, 3, 3), (256, 384, 3, 3), (256, 256, 3, 3), (4096, pooled), (4096, 4096)]
    names = {}
    for i, shape in enumerate(shapes, 1):
        names.update({f"conv{i}.weight" if i < 6 else f"fc{i - 5}.weight": shape, **batch_norm_names(f"bn{i}", shape[0])})
    return {**names, "fc3.weight": (classes, 4096), "fc3.bias": (classes,)}


def expected_names():
    networks = {}
    for depth in (20, 32, 44, 56, 110):
        for suffix, convolutions in (("", False), ("_b", True)):
            networks[f"resnet{depth}{suffix}"] = resnet_names([(depth - 2) // 6] * 3, False, convolutions)
    for depth, blocks, bottleneck in ((18, (2, 2, 2, 2), False), (34, (3, 4, 6, 3), False), (50, (3, 4, 6, 3), True), (101, (3, 4, 23, 3), True)):
        networks[f"resnet{depth}"] = resnet_names(blocks, bottleneck, True)
    networks["preresnet20"], networks["preresnet56"] = preactivation_names(3), preactivation_names(9)
    networks["alexnet"] = alexnet_names((64, 3, 11, 11), 256 * 6 * 6, 1000)
    networks["alexnet_cifar"] = alexnet_names((64, 3, 3, 3), 256 * 3 * 3, 10)
    return networks
