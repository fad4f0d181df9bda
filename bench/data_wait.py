#!/usr/bin/env python3
"""Which part of its training time the quick CIFAR recipe waits for data: recipes/cifar100_resnet20_quick.yaml on the CIFAR-100 that --data names, one epoch a stage.

A value is the time that rank 0 waited for batches (the order of the images and the first batch included) divided by the time of its steps. data_wait/max is the
greatest of the stages; data_wait/all is over all of them.
"""
import argparse
import json
import os
import pathlib
import subprocess
import tempfile

from peers import driver, environment
from peers.participant import Failure

RECIPE = environment.ROOT / 'recipes/cifar100_resnet20_quick.yaml'
BATCH = 128


def default_folder():
    return pathlib.Path(os.environ.get('BITSTAIR_TEST_DATA') or environment.ROOT / '../shared/data') / 'cifar100'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, default=default_folder(), help='folder with train.bin and test.bin, or their .xz; default: %(default)s')
    parser.add_argument('--images', type=driver.positive, default=100 * BATCH, help='of an epoch; default: %(default)s')
    parser.add_argument('--set', action='append', default=[], metavar='KEY=VALUE', help="of the recipe, as bitstair run's")
    parser.add_argument('--json-out', metavar='FILE', type=pathlib.Path, help='write the result lines to FILE, too')
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise Failure(f'no folder {arguments.data}: name the one with CIFAR-100 with --data')
    report = driver.Report(arguments.json_out)
    images = arguments.images // BATCH * BATCH
    settings = [f'data.train_limit={images}', 'data.test_limit=1000', 'pretrain.epochs=1', 'quantized.epochs=4', *arguments.set]
    waited = trained = 0
    shares = []
    for stage in run(arguments.data.resolve(), settings)['stages']:
        seconds = stage['epochs_done'] * images / stage['images_per_second']
        report.line(f'data_wait/{stage["name"]}', stage['data_wait_seconds'] / seconds, 'ratio')
        shares.append(stage['data_wait_seconds'] / seconds)
        waited += stage['data_wait_seconds']
        trained += seconds
    report.line('data_wait/max', max(shares), 'ratio')
    report.line('data_wait/all', waited / trained, 'ratio')


def run(data, settings):
    """The job as `bitstair run` prints it."""
    with tempfile.TemporaryDirectory() as state:
        command = [environment.ROOT / 'build' / environment.PRESET / 'bin/bitstair', 'run', RECIPE, '--data', f'cifar100={data}', '--state-dir', state, '--output', 'json']
        for setting in settings:
            command += ['--set', setting]
        done = subprocess.run(command, stdout=subprocess.PIPE, env=environment.environment())
    if done.returncode != 0:
        raise Failure(f'bitstair run ended with exit code {done.returncode}')
    return json.loads(done.stdout)


if __name__ == '__main__':
    driver.run(main)
