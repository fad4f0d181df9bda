"""Trained networks of docs/results on CIFAR-100's test images: what `bitstair evaluate` gives by integer codes, against formulas on values (w_q and a/n) in float64.

usage: compare_trained.py BIN_DIR TEST_DATA RESULTS

Values are no codes: where n x lies next to a half, a last bit decides which code an activation becomes. So the logits differ here and there, and what is compared
is top-1: it must agree for 99.9 % of the images. The weights are the values of the codes that float32 latent weights have by the contract: a formula in float64
rounds a few of them otherwise, and that would be another network."""
import json
import lzma
import os
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

from quantized_torch import EPSILON, Model, greatest_code, weight_codes, weight_values

IMAGES, BATCH, SHARE = 2000, 250, 99.9
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
NETS = ("baseline_w2a2_seed1", "ts_w2a2_seed1", "pq_w2a2_seed1")


class Evaluated(Model):
    otherwise = 0  # weights that the formula in float64 rounds to another value

    def quantized_values(self, name, width, tanh):
        latent = self.learned[name].detach()
        values = weight_codes(latent.float(), width).double() / greatest_code(width)
        self.otherwise += int((values - weight_values(latent, width)).abs().gt(1e-6).sum())
        return values.requires_grad_()

    def batch_norm(self, values, norm):
        def channel(name):
            tensors = self.statistics if ".running_" in name else self.learned
            return tensors[f"{norm}.{name.removeprefix('.')}"].double().view([1, -1] + [1] * (values.dim() - 2))
        return (values - channel(".running_mean")) / (channel(".running_var") + EPSILON).sqrt() * channel(".weight") + channel(".bias")


def read_images(path):
    """Pixels, normalised, and fine labels."""
    with lzma.open(path) as file:
        records = torch.frombuffer(bytearray(file.read(IMAGES * 3074)), dtype=torch.uint8).view(IMAGES, 3074)
    pixels = records[:, 2:].reshape(IMAGES, 3, 32, 32).double() / 255
    return (pixels - torch.tensor(MEAN).double().view(3, 1, 1)) / torch.tensor(STD).double().view(3, 1, 1), records[:, 1].long()


def by_values(weights, images):
    tensors = {name: t.double() for name, t in load_file(weights).items() if "/" not in name}
    model = Evaluated(tensors, 2, 2, relu=False, on_codes=False)
    model.begin_step()
    with torch.no_grad():
        return torch.cat([model.forward(part) for part in images.split(BATCH)]), model.otherwise


def by_codes(bin_dir, weights, data):
    own = {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "PYTHONPATH")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([f"{bin_dir}/bitstair", "evaluate", "--weights", str(weights), "--data", f"cifar100={data}", "--limit", str(IMAGES), "--output", "json",
                               "--logits", f"{folder}/logits"], env=own, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert (result["numerics"], result["weight_bits"], result["activation_bits"], result["images"]) == ("fast", 2, 2, IMAGES), result
        return result["top1"], load_file(f"{folder}/logits")["logits"].double()


def main(bin_dir, test_data, results):
    data = pathlib.Path(test_data) / "cifar100"
    if not (data / "test.bin.xz").is_file():
        print(f"skipped: no {data}/test.bin.xz")
        return 77
    images, labels = read_images(data / "test.bin.xz")
    failed = False
    for net in NETS:
        weights = pathlib.Path(results) / "cifar100_resnet20" / f"{net}.safetensors"
        values, otherwise = by_values(weights, images)
        top1, codes = by_codes(bin_dir, weights, data)
        assert abs((codes.argmax(1) == labels).double().mean().item() * 100 - top1) < 1e-9
        share = (codes.argmax(1) == values.argmax(1)).double().mean().item() * 100
        close = ((codes - values).abs().amax(1) <= 1e-4 * values.abs().amax(1)).double().mean().item() * 100
        print(f"{net}: top-1 agrees for {share:.2f} % of {IMAGES} images, all logits to 1e-4 for {close:.2f} %; top-1 by codes {top1:.2f} %, "
              f"by values {(values.argmax(1) == labels).double().mean().item() * 100:.2f} %; float64 would round {otherwise} weights otherwise")
        failed |= share < SHARE or top1 < 50
    return 1 if failed else 0


sys.exit(main(*sys.argv[1:]))
