"""What the benchmarks of a training step share: command line, result lines, starting participants, taking turns, and a clean end."""
import argparse
import json
import pathlib
import shlex
import signal
import statistics
import sys
import time

from peers import environment
from peers.participant import Failure, Participant
from peers.variants import BATCH


def command_line(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--network', choices=list(BATCH), help='one network only; default: both')
    parser.add_argument('--batch', type=positive, help='images in a step; default: ' + ', '.join(f'{batch} for {name}' for name, batch in BATCH.items()))
    parser.add_argument('--ours', metavar='COMMAND', type=shlex.split, default=[environment.OURS], help='instead of bench_step of the build')
    parser.add_argument('--json-out', metavar='FILE', type=pathlib.Path, help='write the result lines to FILE, too')
    return parser


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def networks_of(arguments):
    """(name, batch) of each network to measure."""
    return [(name, arguments.batch or BATCH[name]) for name in ([arguments.network] if arguments.network else BATCH)]


def say(text):
    print(text, file=sys.stderr, flush=True)


class Report:
    """Result lines on stdout, and in a file if one is wanted."""

    def __init__(self, path):
        self.file = path.open('w') if path else None

    def line(self, name, value, unit, **more):
        text = json.dumps({'name': name, 'value': rounded(value), 'unit': unit, **{key: rounded(v) for key, v in more.items()}})
        print(text, flush=True)
        if self.file:
            print(text, file=self.file, flush=True)

    def comparison(self, name, peer, ratios, low, high):
        middle = statistics.median(ratios)
        self.line(name, middle, 'ratio', peer=peer, ratio=middle, low=low, high=high)


def rounded(value):
    return float(f'{value:.6g}') if isinstance(value, float) else value


def start_ours(mode, network, batch, arguments, settings=None):
    command = [*arguments.ours, '--network', network, '--mode', mode, '--batch', str(batch), '--threads', str(environment.cores())]
    return Participant(f'ours ({mode})', command, {**environment.environment(), **(settings or {})})


def start_peer(variant, network, batch, settings=None):
    command = [str(environment.PYTHON), '-m', 'peers.torch_peer', '--network', network, '--variant', variant, '--batch', str(batch)]
    command += ['--threads', str(environment.cores())]
    return Participant(variant, command, {**environment.peer_environment(), **(settings or {})}, environment.ROOT / 'bench')


def take_turns(network, participants, rounds, steps):
    """name -> its median step of every round. Who goes first changes from round to round, so nobody always runs after the same other."""
    times = {name: [] for name in participants}
    names, turns, start = list(participants), 0, time.monotonic()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            left = f'; about {(time.monotonic() - start) / turns * (rounds * len(names) - turns):.0f} s left' if turns else ''
            say(f'{network}: round {number + 1}/{rounds} {name}{left}')
            times[name].append(statistics.median(participants[name].run(steps)))
            turns += 1
    return times


def quartiles(ratios):
    """The first and the third."""
    low, _, high = statistics.quantiles(ratios, n=4, method='inclusive') if len(ratios) > 1 else ratios * 3
    return low, high


def run(main):
    """A signal unwinds the stack, which ends the participants."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except Failure as failure:
        say(f'bench: {failure}')
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
