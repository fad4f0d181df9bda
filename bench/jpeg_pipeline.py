#!/usr/bin/env python3
"""How many pictures a core reads in a second: our image folders against torchvision's transforms over Pillow, decoding, resizing and normalising the same files.

Both run on one core, the same one, and take turns in every round. train: a random resized crop and a flip; test: resize and centre crop. A comparison is the median
over the rounds of (our images/s) / (theirs); low and high are the quartiles. jpeg_pipeline/vs_torchvision is the less favourable of the two.
"""
import argparse
import contextlib
import os
import pathlib
import statistics

from peers import driver, environment
from peers.participant import Failure, Participant

MODES = ('train', 'test')
PEER = 'torchvision'


def default_folder():
    data = os.environ.get('BITSTAIR_TEST_DATA') or environment.ROOT / '../shared/data'
    return pathlib.Path(data) / 'imagenet_sample/fullres_one_per_class'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=pathlib.Path, default=default_folder(), help='of classes, each with JPEG files; default: %(default)s')
    parser.add_argument('--rounds', type=driver.positive, default=9, help='default: %(default)s')
    parser.add_argument('--passes', type=driver.positive, default=1, help="over all files in a turn; default: %(default)s")
    parser.add_argument('--json-out', metavar='FILE', type=pathlib.Path, help='write the result lines to FILE, too')
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        raise Failure(f'no folder {arguments.folder}: name one with --folder, or the one that holds imagenet_sample with BITSTAIR_TEST_DATA')
    arguments.folder = arguments.folder.resolve()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    report = driver.Report(arguments.json_out)
    ratios = {mode: measure(mode, arguments, report) for mode in MODES}
    compare(f'jpeg_pipeline/vs_{PEER}', min(ratios.values(), key=statistics.median), report)


def measure(mode, arguments, report):
    """Prints the lines of one mode; the ratios of its rounds."""
    options = ['--folder', str(arguments.folder), '--mode', mode]
    settings = environment.peer_environment()
    settings['PYTHONPATH'] += f':{environment.DEPS / "torchvision"}'
    commands = {'bitstair': ([str(environment.ROOT / 'build' / environment.PRESET / 'bin/bench_jpeg_pipeline'), *options], environment.environment(), None),
                PEER: ([str(environment.PYTHON), '-m', 'peers.torchvision_peer', *options], settings, environment.ROOT / 'bench')}
    with contextlib.ExitStack() as stack:
        participants, images = {}, {}
        for name, command in commands.items():
            driver.say(f'{mode}: starting {name}')
            participants[name] = stack.enter_context(Participant(f'{name} ({mode})', *command))
            images[name] = participants[name].wait_until_ready(1)['images']
        if len(set(images.values())) != 1:
            raise Failure(f'the participants read different numbers of images: {images}')
        rates = {name: [] for name in participants}
        for number in range(arguments.rounds):
            driver.say(f'{mode}: round {number + 1}/{arguments.rounds}')
            for name in sorted(participants, reverse=number % 2 == 1):
                rates[name].append(images[name] / statistics.median(participants[name].run(arguments.passes)))
    for name, values in rates.items():
        report.line(f'jpeg_pipeline/{mode}/{name}', statistics.median(values), 'images/s')
    ratios = [ours / theirs for ours, theirs in zip(rates['bitstair'], rates[PEER])]
    compare(f'jpeg_pipeline/{mode}/vs_{PEER}', ratios, report)
    return ratios


def compare(name, ratios, report):
    low, _, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
    report.comparison(name, PEER, ratios, low, high)


if __name__ == '__main__':
    driver.run(main)
