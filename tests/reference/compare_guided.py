"""Compares what the C++ core computed for guided pairs (guided_dump) with the PyTorch implementation in guided_torch.py; float64 on both sides.
usage: compare_guided.py GUIDED_DUMP RUN   RUN: guided_NETWORK_wWaA
"""
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

from guided_torch import GuidedPair
from quantized_torch import Model

# Both sides in float64 differ by the order of sums and by two tanh functions.
TOLERANCE = 1e-8
# The default: the outputs of the last two groups of blocks.
HINT_POINTS = {'guided_resnet20_w4a4': ['layer2', 'layer3'], 'guided_resnet20_w2a32': ['layer1.1', 'layer3'], 'guided_convnet28_w4a4': ['conv1', 'conv2', 'fc1']}
RELU_TEACHERS = ['guided_convnet28_w4a4']

checks = 0


def expect_close(ours, theirs, what):
    global checks
    checks += 1
    error = ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-30)).item()
    if not error <= TOLERANCE:
        sys.exit(f'FAILED: {what}: relative error {error:.3g} above {TOLERANCE}')


def model_of(core, net, weight_bits, activation_bits, relu):
    prefix = f'{net}/initial/'
    tensors = {name.removeprefix(prefix): t for name, t in core.items() if name.startswith(prefix)}
    return Model(tensors, weight_bits, activation_bits, relu=relu, on_codes=False)


def compare(core, run, weight_bits, activation_bits):
    low, full = model_of(core, 'low', weight_bits, activation_bits, False), model_of(core, 'full', 32, 32, run in RELU_TEACHERS)
    nets = {'low': low, 'full': full}
    pair = GuidedPair(low, full, HINT_POINTS[run], activation_bits, core['lambda'].item())
    optimizers = {net: torch.optim.SGD(model.learned.values(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4) for net, model in nets.items()}
    for step in range(core['labels'].size(0)):
        losses, hint = pair.step(core['images'][step].double(), core['labels'][step])
        expect_close(hint, core['hint'][step], f'hint of step {step}')
        for number, (net, model) in enumerate(nets.items()):
            expect_close(losses[net], core[f'{net}/loss'][step], f'{net} loss of step {step}')
            if step == 0:
                for name, grad in pair.grads[net].items():
                    expect_close(grad, core[f'{net}/grad/{name}'], f'{net} gradient of {name}')
            optimizers[net].param_groups[0]['lr'] = core['learning_rates'][step][number].item()
            optimizers[net].step()
    for net, model in nets.items():
        for name, t in model.learned.items():
            expect_close(t.detach(), core[f'{net}/final/{name}'], f'{net} {name} after the last step')
            expect_close(optimizers[net].state[t]['momentum_buffer'], core[f'{net}/momentum/{name}'], f'{net} momentum of {name} after the last step')
        for name, t in model.statistics.items():
            expect_close(t, core[f'{net}/final/{name}'], f'{net} {name} after the last step')


def main():
    torch.set_num_threads(1)
    guided_dump, run = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([guided_dump, folder, run], check=True)
        core = load_file(f'{folder}/{run}.safetensors')
    compare(core, run, *map(int, re.fullmatch(r'\w+_w(\d+)a(\d+)', run).groups()))
    print(f'{run}: {checks} comparisons hold')


main()
