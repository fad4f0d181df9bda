"""Opens a checkpoint of ours with the official safetensors reader. usage: opens_with_safetensors.py WRITER"""
import subprocess
import sys
import tempfile

import numpy
from safetensors import safe_open

with tempfile.TemporaryDirectory() as folder:
    path = subprocess.run([sys.argv[1], folder], check=True, capture_output=True, text=True).stdout.strip()
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["format"] == "bitstair-checkpoint-1", file.metadata()
        assert file.metadata()["epoch"] == "3", file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}
expected = {
    "conv1.weight": numpy.arange(27, dtype=numpy.float32).reshape(3, 3, 3) / 8,
    "bn1.running_mean": numpy.arange(5, dtype=numpy.float64) / 4,
    "counts": numpy.arange(4, dtype=numpy.int64),
    "bytes": numpy.arange(3, dtype=numpy.uint8),
}
assert tensors.keys() == expected.keys(), tensors.keys()
for name, value in expected.items():
    assert tensors[name].dtype == value.dtype and numpy.array_equal(tensors[name], value), name
