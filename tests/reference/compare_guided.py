"""Compares what the C++ core computed for guided pairs (guided_dump) with the PyTorch implementation in guided_torch.py; float64 on both sides.
usage: compare_guided.py GUIDED_DUMP RUN   RUN: guided_NETWORK_wWaA
"""
import re

import several_nets
from guided_torch import GuidedPair
from quantized_torch import Model
from several_nets import compare_end, compare_first_gradients, expect_close, model_of, optimizer_of, update

# The default: the outputs of the last two groups of blocks.
HINT_POINTS = {'guided_resnet20_w4a4': ['layer2', 'layer3'], 'guided_resnet20_w2a32': ['layer1.1', 'layer3'], 'guided_convnet28_w4a4': ['conv1', 'conv2', 'fc1'],
               'guided_resnet20_w2a2_first_last': ['layer2', 'layer3'], 'guided_resnet20_w2a2_logits': ['layer3', 'logits']}
RELU_TEACHERS = ['guided_convnet28_w4a4']
# Where the low-precision net's features have another width than its activations, or there is none.
HINTS = {'guided_resnet20_w2a2_first_last': {'layer3': ('bits', 8)}, 'guided_resnet20_w2a2_logits': {'logits': ('temperature', 3)}}


def compare(core, run):
    weight_bits, activation_bits, option = re.fullmatch(r'\w+?_w(\d+)a(\d+)_?(\w*)', run).groups()
    weight_bits, activation_bits = int(weight_bits), int(activation_bits)
    low, full = model_of(Model, core, 'low', weight_bits, activation_bits, option=option), model_of(Model, core, 'full', 32, 32, run in RELU_TEACHERS)
    nets = {'low': low, 'full': full}
    hints = {name: HINTS.get(run, {}).get(name, ('bits', activation_bits)) for name in HINT_POINTS[run]}
    pair = GuidedPair(low, full, hints, core['lambda'].item())
    optimizers = {net: optimizer_of(model) for net, model in nets.items()}
    for step in range(core['labels'].size(0)):
        losses, hint = pair.step(core['images'][step].double(), core['labels'][step])
        expect_close(hint, core['hint'][step], f'hint of step {step}')
        for number, (net, model) in enumerate(nets.items()):
            expect_close(losses[net], core[f'{net}/loss'][step], f'{net} loss of step {step}')
            if step == 0:
                compare_first_gradients(core, net, pair.grads[net])
            update(model, optimizers[net], core['learning_rates'][step][number].item())
    for net, model in nets.items():
        compare_end(core, net, model, optimizers[net])


several_nets.run(compare)
