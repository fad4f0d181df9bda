"""What compare_guided.py and compare_journal.py share: a C++ program trained nets on fixed inputs, and PyTorch does the same; float64 on both sides."""
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

from learned_torch import halve_at_most, is_scalar, parameter_groups

# Both sides in float64 differ by the order of sums and by two tanh functions.
TOLERANCE = 1e-8

checks = 0


def expect_close(ours, theirs, what):
    global checks
    checks += 1
    error = ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-30)).item()
    if not error <= TOLERANCE:
        sys.exit(f'FAILED: {what}: relative error {error:.3g} above {TOLERANCE}')


def model_of(kind, core, net, weight_bits, activation_bits, relu=False, option=''):
    prefix = f'{net}/initial/'
    tensors = {name.removeprefix(prefix): t for name, t in core.items() if name.startswith(prefix)}
    return kind(tensors, weight_bits, activation_bits, relu=relu, on_codes=False, option=option)


def optimizer_of(model):
    return torch.optim.SGD(parameter_groups(model.learned, 1e-4, 1e-4), lr=0.1, momentum=0.9, nesterov=True)


def update(model, optimizer, learning_rate):
    for group in optimizer.param_groups:
        group['lr'] = learning_rate
    before = {name: t.item() for name, t in model.learned.items() if is_scalar(name)}
    optimizer.step()
    halve_at_most(model.learned, before, optimizer)


def compare_first_gradients(core, net, grads):
    for name, grad in grads.items():
        expect_close(grad, core[f'{net}/grad/{name}'], f'{net} gradient of {name}')


def compare_end(core, net, model, optimizer):
    for name, t in model.learned.items():
        expect_close(t.detach(), core[f'{net}/final/{name}'], f'{net} {name} after the last step')
        expect_close(optimizer.state[t]['momentum_buffer'], core[f'{net}/momentum/{name}'], f'{net} momentum of {name} after the last step')
    for name, t in model.statistics.items():
        expect_close(t, core[f'{net}/final/{name}'], f'{net} {name} after the last step')


def run(compare):
    """compare(core's tensors, name of the run)"""
    torch.set_num_threads(1)
    program, name = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([program, folder, name], check=True)
        core = load_file(f'{folder}/{name}.safetensors')
    compare(core, name)
    print(f'{name}: {checks} comparisons hold')
