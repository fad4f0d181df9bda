"""Compares what the C++ core computed with the methods of the paper's journal version (journal_dump) with the PyTorch implementations in journal_torch.py; float64
on both sides. usage: compare_journal.py JOURNAL_DUMP RUN   RUN: {mutual | stochastic}_NETWORK_wK...[_lsq | _pact][_float_shortcuts]
"""
import re
import sys

import torch
import torch.nn.functional as F

import several_nets
from journal_torch import Mutual, StochasticModel, rounded_units
from quantized_torch import Model
from several_nets import compare_end, compare_first_gradients, expect_close, model_of, optimizer_of, update

SEED, EPOCH_WORD, TEACHER_RATE = 1, (4 << 26) + (4 << 20) + 1, 0.2


def compare_mutual(core, widths, option):
    nets = [model_of(Model, core, f'w{bits}', bits, bits, option=option) for bits in (32, *widths)]
    names = [f'w{bits}' for bits in (32, *widths)]
    mutual = Mutual(nets[0], nets[1:], *core['options'].tolist())
    optimizers = [optimizer_of(net) for net in nets]
    for step in range(core['labels'].size(0)):
        losses, grads, divergence = mutual.step(core['images'][step].double(), core['labels'][step])
        expect_close(divergence, core['divergence'][step], f'divergence of step {step}')
        for i, name in enumerate(names):
            expect_close(losses[i], core[f'{name}/loss'][step], f'{name} loss of step {step}')
            if step == 0:
                compare_first_gradients(core, name, grads[i])
            update(nets[i], optimizers[i], core['learning_rates'][step].item() * (TEACHER_RATE if i == 0 else 1))
    for name, net, optimizer in zip(names, nets, optimizers):
        compare_end(core, name, net, optimizer)


def compare_stochastic(core, bits, pooled):
    net, name = model_of(StochasticModel, core, f'w{bits}', bits, bits), f'w{bits}'
    optimizer, steps, seen = optimizer_of(net), core['labels'].size(0), set()
    for step in range(steps):
        share = 0.5 + 0.5 * min(1, step / (0.8 * steps))
        expect_close(torch.tensor(share, dtype=torch.float64), core['shares'][step], f'share of step {step}')
        net.rounded = rounded_units(net.units(), share, SEED, EPOCH_WORD, step)
        seen.add(frozenset(net.rounded))
        net.begin_step()
        loss = F.cross_entropy(net.forward(core['images'][step].double()), core['labels'][step])
        grads = net.gradients(loss)
        expect_close(loss.detach(), core[f'{name}/loss'][step], f'loss of step {step}')
        if step == 0:
            compare_first_gradients(core, name, grads)
        update(net, optimizer, core['learning_rates'][step].item())
    if len(seen) < 4:
        sys.exit(f'FAILED: only {len(seen)} choices of layers in {steps} steps')
    compare_end(core, name, net, optimizer)
    if pooled:
        print(f'{net.ties} pooling windows of unrounded activations have several maxima')
    if pooled and net.ties == 0:
        sys.exit('FAILED: the run has no ties to be taken alike')


def compare(core, run):
    widths = [int(bits) for bits in re.findall(r'_w(\d+)', run)]
    if run.startswith('mutual'):
        compare_mutual(core, widths, re.search(r'((?:lsq|pact)\w*)?$', run)[0])
    else:
        compare_stochastic(core, *widths, pooled='convnet' in run or 'alexnet' in run)


several_nets.run(compare)
