"""The peer of bench/jpeg_pipeline.py: torchvision's transforms over Pillow, on one thread. Started by the driver as `python -m peers.torchvision_peer`."""
import argparse
import json
import pathlib
import sys
import time

import torch
from PIL import Image
from torchvision import transforms

from peers import protocol

NORMALIZE = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
TRANSFORMS = {'train': transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *NORMALIZE]),
              'test': transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *NORMALIZE])}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=pathlib.Path, required=True)
    parser.add_argument('--mode', choices=TRANSFORMS, required=True)
    arguments = parser.parse_args()
    answer = sys.stdout
    sys.stdout = sys.stderr
    torch.set_num_threads(1)
    torch.manual_seed(1)
    files = sorted(arguments.folder.glob('*/*'))
    transform = TRANSFORMS[arguments.mode]

    def one_pass():
        begin = time.perf_counter()
        for path in files:
            with path.open('rb') as file:
                transform(Image.open(file).convert('RGB'))
        return time.perf_counter() - begin

    one_pass()
    print(json.dumps({'ready': True, 'threads': torch.get_num_threads(), 'images': len(files)}), file=answer, flush=True)
    protocol.serve(answer, {'run': lambda passes: {'seconds': [one_pass() for _ in range(int(passes))]}})


main()
