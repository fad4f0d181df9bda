"""Compares what the C++ core computed (core_dump) with the PyTorch implementation in quantized_torch.py.
usage: compare.py CORE_DUMP {quantizers | names | RUN}   RUN: NETWORK_wWaA_DTYPE, see core_dump.cc
"""
import re
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

from networks import expected_names
from learned_torch import halve_at_most, is_scalar, parameter_groups
from quantized_torch import Model, activation_values, contract_tanh, greatest_code, weight_codes, weight_values

# Both sides in float64 differ by the order of sums and by two tanh functions.
FLOAT64_STEPS = 1e-8
# Quantiser gradients, relative to the greatest one.
QUANTIZER_GRADIENT = 1e-6
# One float32 step whose codes are equal: float32 convolution gradients over up to 20 layers, relative to the greatest one of a tensor.
FLOAT32_STEP = 2e-5
# As in core_dump.cc: another than the weights', or no one would see which is taken.
CLIP_WEIGHT_DECAY = 0.01

checks = 0


def expect(condition, message):
    global checks
    checks += 1
    if not condition:
        sys.exit(f"FAILED: {message}")


def expect_equal(ours, theirs, what):
    different = (ours != theirs).sum().item()
    expect(different == 0, f"{what}: {different} of {theirs.numel()} differ")


def expect_close(ours, theirs, tolerance, what):
    error = ((ours.double() - theirs.double()).abs().max() / theirs.double().abs().max().clamp(min=1e-30)).item()
    expect(error <= tolerance, f"{what}: relative error {error:.3g} above {tolerance}")


def compare_quantizers(core):
    for dtype in ("float32", "float64"):
        for bits in (1, 2, 3, 4, 5, 6, 7, 8, 16):
            w = {key: core[f"w{bits}.{dtype}.{key}"] for key in ("latent", "grad", "codes", "values", "grad_latent")}
            codes = weight_codes(w["latent"], bits)
            expect_equal(codes, w["codes"], f"{bits}-bit weight codes, {dtype}")
            expect_equal(codes / greatest_code(bits), w["values"], f"{bits}-bit weight values, {dtype}")
            latent = w["latent"].double().requires_grad_()
            weight_values(latent, bits).backward(w["grad"].double())
            expect_close(w["grad_latent"], latent.grad, QUANTIZER_GRADIENT, f"{bits}-bit weight gradient, {dtype}")

            a = {key: core[f"a{bits}.{dtype}.{key}"] for key in ("x", "grad", "codes", "grad_x")}
            n = greatest_code(bits)
            expect_equal(torch.round(n * a["x"].clamp(0, 1)), a["codes"], f"{bits}-bit activation codes, {dtype}")
            x = a["x"].double().requires_grad_()
            (activation_values(x, bits) * n).backward(a["grad"].double())
            expect_close(a["grad_x"], x.grad, QUANTIZER_GRADIENT, f"{bits}-bit activation gradient, {dtype}")
    x = torch.linspace(-25, 25, 100001, dtype=torch.float64)
    expect_close(contract_tanh(x), torch.tanh(x), 1e-15, "the contract's tanh")


def compare_run(core, weight_bits, activation_bits, dtype, option):
    single = dtype == torch.float32
    tensors = {name.removeprefix("initial/"): t for name, t in core.items() if name.startswith("initial/")}
    model = Model(tensors, weight_bits, activation_bits, relu=weight_bits == 32, on_codes=single, option=option)
    norms = {name.removesuffix("running_mean") for name in model.statistics}
    groups = parameter_groups(model.learned, 1e-4, CLIP_WEIGHT_DECAY, norms, core["batch_norm_rate"].item())
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    for step in range(core["labels"].size(0)):
        model.begin_step()
        logits = model.forward(core["images"][step].to(dtype))
        loss = torch.nn.functional.cross_entropy(logits, core["labels"][step])
        grads = model.gradients(loss)
        tolerance = FLOAT32_STEP if single else FLOAT64_STEPS
        if step == 0:
            compare_first_step(core, model, grads, single, tolerance)
        expect_close(loss.detach(), core["loss"][step], tolerance, f"loss of step {step}")
        for group in optimizer.param_groups:
            group["lr"] = core["learning_rates"][step].item() * group["factor"]
        before = {name: t.item() for name, t in model.learned.items() if is_scalar(name)}
        optimizer.step()
        halve_at_most(model.learned, before, optimizer)
    for name, t in model.learned.items():
        expect_close(t.detach(), core[f"final/{name}"], tolerance, f"{name} after the last step")
        expect_close(optimizer.state[t]["momentum_buffer"], core[f"momentum/{name}"], tolerance, f"momentum of {name} after the last step")
    for name, t in model.statistics.items():
        expect_close(t, core[f"final/{name}"], tolerance, f"{name} after the last step")


def compare_first_step(core, model, grads, single, tolerance):
    seen = sum(name.startswith("values/") for name in core)
    expect(len(model.activations) == seen, f"{len(model.activations)} activations, the core has {seen}")
    for i, (values, bits, scale) in enumerate(model.activations):
        theirs = core[f"values/{i}"]
        if bits == 32:
            expect_close(values, theirs, tolerance, f"activation {i}")
            continue
        ours, codes = torch.round(values / scale), torch.round(theirs / scale)
        expect(len(codes.unique()) > 2, f"activation {i} has only {len(codes.unique())} codes: nothing to compare")
        expect_equal(ours, codes, f"codes of activation {i}")
    for name, grad in grads.items():
        expect_close(grad, core[f"grad/{name}"], tolerance, f"gradient of {name}")


def compare_names(lines):
    expected = expected_names()
    ours = {}
    for line in lines:
        network, name, *shape = line.split()
        ours.setdefault(network, {})[name] = tuple(int(size) for size in shape)
    ours.pop("convnet28")  # its layers are Bitstair's own
    expect(sorted(ours) == sorted(expected), f"networks {sorted(ours)}")
    for network, names in expected.items():
        expect(list(ours[network].items()) == sorted(names.items()), f"{network}: {set(ours[network].items()) ^ set(names.items())}")


def main():
    torch.set_num_threads(1)
    core_dump, what = sys.argv[1], sys.argv[2]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([core_dump, folder, what], check=True)
        if what == "names":
            with open(f"{folder}/names.txt") as names:
                compare_names(names)
            print(f"{what}: {checks} comparisons hold")
            return
        core = load_file(f"{folder}/{what}.safetensors")
    if what == "quantizers":
        compare_quantizers(core)
    else:
        weight_bits, activation_bits, dtype, option = re.fullmatch(r"\w+?_w(\d+)a(\d+)_(float\d+)_?(\w*)", what).groups()
        compare_run(core, int(weight_bits), int(activation_bits), getattr(torch, dtype), option)
    print(f"{what}: {checks} comparisons hold")


main()
