"""One peer: trains a network of one variant with PyTorch on the CPU, as the driver asks. Started by the driver as `python -m peers.torch_peer`."""
import argparse
import ctypes
import math
import os
import pathlib
import re
import sys
import time

import torch
import torch._dynamo  # Else the optimiser loads it, and the memory benchmark would count it.
from torch import nn
import torch.nn.functional as F

from peers import layers, networks, protocol
from peers.variants import VARIANTS

# The first step makes the momentum, Brevitas' first two measure activations, and the allocator settles.
WARM_UP_STEPS = 4
MEMORY_STEPS = 3


class Trainer:
    """Plain PyTorch training on one fixed random batch: what a step costs does not depend on the pixels."""

    def __init__(self, network, variant, batch):
        torch.manual_seed(20171101)
        self.variant = variant
        layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self.model = networks.NETWORKS[network](layers.KINDS[variant.layers]()).to(memory_format=layout).train()
        size = networks.SIZE[network]
        self.images = torch.randn(batch, 3, size, size).to(memory_format=layout)
        self.labels = torch.randint(networks.CLASSES[network], (batch,))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True)
        self.loss_of = torch.compile(self.loss_of_batch) if variant.compiled else self.loss_of_batch

    def loss_of_batch(self, images, labels):
        with torch.autocast('cpu', torch.bfloat16, enabled=self.variant.bf16):
            return F.cross_entropy(self.model(images), labels)

    def step(self):
        self.optimizer.zero_grad()
        loss = self.loss_of(self.images, self.labels)
        loss.backward()
        self.optimizer.step()
        return loss

    def run(self, steps):
        seconds = []
        for _ in range(int(steps)):
            start = time.perf_counter()
            loss = self.step()
            seconds.append(time.perf_counter() - start)
        if not math.isfinite(loss.item()):
            raise SystemExit('the loss is not finite: this is not training')
        return {'seconds': seconds}

    def memory(self, baseline):
        pathlib.Path('/proc/self/clear_refs').write_text('5')
        for _ in range(MEMORY_STEPS):
            self.step()
        return {'baseline_bytes': baseline, 'peak_bytes': resident_bytes('VmHWM')}


def resident_bytes(key):
    return 1024 * int(re.search(rf'{key}:\s*(\d+) kB', pathlib.Path('/proc/self/status').read_text())[1])


def load_libraries():
    """One step of a toy network: code and tables that PyTorch loads late belong to the libraries, not to the network's memory."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, fused=True)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.arange(4)).backward()
        optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--network', required=True, choices=networks.NETWORKS)
    parser.add_argument('--variant', required=True, choices=VARIANTS)
    parser.add_argument('--batch', required=True, type=int)
    parser.add_argument('--threads', required=True, type=int)
    arguments = parser.parse_args()
    # Answers go to the driver; anything that a library prints goes where the errors go.
    answer = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    torch.set_num_threads(arguments.threads)
    load_libraries()
    ctypes.CDLL(None).malloc_trim(0)
    baseline = resident_bytes('VmRSS')
    trainer = Trainer(arguments.network, VARIANTS[arguments.variant], arguments.batch)
    for _ in range(WARM_UP_STEPS):
        trainer.step()
    handlers = {'run': trainer.run, 'memory': lambda: trainer.memory(baseline)}
    print('{"ready": true, "threads": %d}' % torch.get_num_threads(), file=answer, flush=True)
    protocol.serve(answer, handlers)


if __name__ == '__main__':
    sys.exit(main())
