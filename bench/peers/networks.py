"""The benchmark's networks out of any kind of layers. The first convolution and the last layer stay in full precision, as in ours."""
from torch import nn
import torch.nn.functional as F


class PaddedShortcut(nn.Module):
    """Option A of the ResNet paper: every second pixel, and zeros for the new channels."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.added = (outputs - inputs) // 2

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.added, self.added))


class BasicBlock(nn.Module):
    def __init__(self, layers, inputs, outputs, stride, shortcut, last):
        super().__init__()
        self.conv1 = layers.conv(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.activation1 = layers.activation()
        self.conv2 = layers.conv(outputs, outputs, 3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut
        self.activation2 = layers.last_activation() if last else layers.activation()

    def forward(self, x):
        y = self.activation1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.shortcut is None else self.shortcut(x)
        return self.activation2(y)


class ResNet(nn.Module):
    """stem: what comes before the blocks; widths: channels of each stage; shortcut: function of (inputs, outputs) for blocks that halve the image."""

    def __init__(self, layers, stem, widths, blocks, classes, shortcut):
        super().__init__()
        self.stem = stem
        made, inputs = [], widths[0]
        for stage, outputs in enumerate(widths):
            for block in range(blocks):
                halves = stage > 0 and block == 0
                last = stage == len(widths) - 1 and block == blocks - 1
                made.append(BasicBlock(layers, inputs, outputs, 2 if halves else 1, shortcut(inputs, outputs) if halves else None, last))
                inputs = outputs
        self.blocks = nn.Sequential(*made)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def resnet20(layers):
    """CIFAR's ResNet-20."""
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), layers.activation())
    return ResNet(layers, stem, [16, 32, 64], 3, CLASSES['resnet20'], PaddedShortcut)


def resnet18(layers):
    """torchvision's ResNet-18."""
    def shortcut(inputs, outputs):
        return nn.Sequential(layers.conv(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))

    stem = nn.Sequential(nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(64), layers.activation(), nn.MaxPool2d(3, stride=2, padding=1))
    return ResNet(layers, stem, [64, 128, 256, 512], 2, CLASSES['resnet18'], shortcut)


NETWORKS = {'resnet20': resnet20, 'resnet18': resnet18}
SIZE = {'resnet20': 32, 'resnet18': 224}
CLASSES = {'resnet20': 100, 'resnet18': 1000}
