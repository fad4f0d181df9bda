"""bitstair evaluate against PyTorch: the pretrained CIFAR-10 networks' logits, what torch.save writes in its formats, and what must be refused.

usage: compare_evaluate.py BIN_DIR WEIGHTS_DIR"""
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = 64


def forward(w, x):
    """akamaster's network of these tensors, in float64."""
    def norm(x, name):
        return F.batch_norm(x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"])
    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], padding=1), "bn1"))
    for group in (1, 2, 3):
        block = 0
        while f"layer{group}.{block}.conv1.weight" in w:
            name = f"layer{group}.{block}"
            stride = 2 if group > 1 and block == 0 else 1
            shortcut = x
            if stride == 2:
                planes = w[f"{name}.conv1.weight"].size(0)
                shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, planes // 4, planes // 4))
            x = F.relu(norm(F.conv2d(x, w[f"{name}.conv1.weight"], stride=stride, padding=1), f"{name}.bn1"))
            x = F.relu(norm(F.conv2d(x, w[f"{name}.conv2.weight"], padding=1), f"{name}.bn2") + shortcut)
            block += 1
    return F.linear(x.mean((2, 3)), w["linear.weight"], w["linear.bias"])


def main(bin_dir, weights_dir):
    weights_dir = pathlib.Path(weights_dir)
    if not weights_dir.is_dir():
        print(f"skipped: no {weights_dir}")
        return 77
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bitstair-evaluate-"))
    rng = random.Random(1)
    data = folder / "cifar10"
    data.mkdir()
    records = [bytes([i % 10]) + rng.randbytes(3072) for i in range(IMAGES)]
    for name in ["test_batch", *(f"data_batch_{i}" for i in range(1, 6))]:
        (data / f"{name}.bin").write_bytes(b"".join(records))
    pixels = torch.frombuffer(bytearray(b"".join(r[1:] for r in records)), dtype=torch.uint8).view(-1, 3, 32, 32).double() / 255
    labels = torch.arange(IMAGES) % 10
    images = (pixels - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1)
    environment = {k: v for k, v in os.environ.items() if k not in ("LD_LIBRARY_PATH", "PYTHONPATH")}

    def evaluate(network, weights, *more, status=0):
        done = subprocess.run([f"{bin_dir}/bitstair", "evaluate", "--network", network, "--weights", str(weights), "--data", str(data), "--mean", ",".join(map(str, MEAN)),
                               "--std", ",".join(map(str, STD)), "--output", "json", "--logits", str(folder / "logits"), *more],
                              capture_output=True, text=True, timeout=100, env=environment)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        return done.stderr if status else (json.loads(done.stdout), load_file(folder / "logits")["logits"].double())

    def plain(path):
        state = torch.load(path, map_location="cpu", weights_only=False)["state_dict"]
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}

    def check(what, network, path, state, tolerance=1e-5):
        want = forward({name: tensor.double() for name, tensor in state.items()}, images)
        result, logits = evaluate(network, path)
        error = ((logits - want).abs().max() / want.abs().max()).item()
        print(f"{what}: relative error of the logits {error:.2e}, top-1 {result['top1']:.2f}")
        assert error < tolerance, what
        assert result["numerics"] == "reference"
        assert result["images"] == IMAGES and not result["missing"] and not result["unexpected"]
        assert abs(result["top1"] - (want.argmax(1) == labels).double().mean().item() * 100) < 100.1 / IMAGES
        return result

    for path in sorted(weights_dir.glob("*.th")):
        check(path.name, path.name.split("-")[0], path, plain(path))

    path = next(weights_dir.glob("resnet20*.th"))
    few_bits = ("--weight-bits", "2", "--activation-bits", "2")
    assert evaluate("resnet20", path, *few_bits)[0]["numerics"] == "fast"
    assert evaluate("resnet20", path, *few_bits, "--numerics", "float64")[0]["numerics"] == "float64"
    state = plain(path)
    file = folder / "w"
    for zipped in (True, False):
        torch.save(collections.OrderedDict((f"module.{n}", t) for n, t in state.items()), file, _use_new_zipfile_serialization=zipped)
        check(f"state dict, zip {zipped}", "resnet20", file, state)
        torch.save({n: torch.nn.Parameter(t, requires_grad=t.is_floating_point()) for n, t in state.items()}, file, _use_new_zipfile_serialization=zipped)
        check(f"parameters, zip {zipped}", "resnet20", file, state)
        for dtype in (torch.half, torch.bfloat16, torch.double):
            rounded = {n: t.to(dtype) if t.is_floating_point() else t for n, t in state.items()}
            torch.save(rounded, file, _use_new_zipfile_serialization=zipped)
            check(f"{dtype}, zip {zipped}", "resnet20", file, rounded)
        torch.save({"state_dict": state, "arguments": pathlib.PurePosixPath("x")}, file, _use_new_zipfile_serialization=zipped)
        assert "PurePosixPath" in evaluate("resnet20", file, status=2)
    save_file({n: t.bfloat16().contiguous() for n, t in state.items()}, file)
    check("safetensors in bfloat16", "resnet20", file, {n: t.bfloat16() for n, t in state.items()})

    less = {n: t for n, t in state.items() if n != "bn1.bias"}
    torch.save(less, file)
    assert "missing: bn1.bias" in evaluate("resnet20", file, status=2)
    assert evaluate("resnet20", file, "--allow-missing")[0]["missing"] == ["bn1.bias"]
    torch.save({**state, "more": torch.zeros(1)}, file)
    assert "unexpected: more" in evaluate("resnet20", file, status=2)
    assert evaluate("resnet20", file, "--allow-unexpected")[0]["unexpected"] == ["more"]
    torch.save({**state, "conv1.weight": torch.zeros(16, 3, 5, 5)}, file)
    assert "conv1.weight has shape [16, 3, 5, 5] instead of [16, 3, 3, 3]" in evaluate("resnet20", file, status=2)
    assert 'unknown network "resnet21"' in evaluate("resnet21", path, status=2)
    assert "--mean has 4 values, but the images have 3 channels" in evaluate("resnet20", path, "--mean", "0.5", status=2)
    file.write_text("no weights at all")
    assert "is neither a safetensors nor a PyTorch file" in evaluate("resnet20", file, status=2)
    subprocess.run(["rm", "-rf", str(folder)], check=True)
    return 0


sys.exit(main(*sys.argv[1:]))
