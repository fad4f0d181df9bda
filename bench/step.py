#!/usr/bin/env python3
"""How long a training step takes: ours against PyTorch in full precision, DoReFa-Net in PyTorch, and Brevitas.

All participants are started once and then take turns, a few steps each, in every round, so that a machine that gets slower for a while slows all of them. Only
times of the same round are divided: ratio = ours / peer, less than 1 is faster than the peer. A comparison's value is the median of the rounds' ratios; low and high
are their quartiles. torch_best and torch_dorefa_best are compared with whichever variant of that family had the least median in this run; "peer" names it.
All participants stay in memory at once: about 15 GB for resnet18 with 16 images.
"""
import contextlib
import statistics

from peers import driver, environment
from peers.driver import say
from peers.participant import Failure, Unsupported
from peers.variants import BEST, VARIANTS

# Modes of ours and the peers each is compared with, as far as these take part. A mode that may be missing is left out.
COMPARED = {'w4a4': ['torch_best', 'torch_fp32', 'torch_dorefa_best', 'torch_dorefa', 'brevitas', 'brevitas_settled'], 'bf16': ['torch_best'], 'w4a4_fast8': ['torch_best']}
MAY_BE_MISSING = {'w4a4_fast8'}
SPLIT_MODE = 'w4a4'
# glibc keeps big blocks instead of giving them back to the kernel, which spares PyTorch page faults in every step. For the tuned variants, among which the
# fastest is looked for; plain PyTorch, plain DoReFa and Brevitas run as they come, unless --kept-memory all says otherwise.
KEPT_MEMORY = {'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592'}


def main():
    parser = driver.command_line(__doc__)
    parser.add_argument('--rounds', type=driver.positive, default=7, help='default: %(default)s')
    parser.add_argument('--steps', type=driver.positive, default=3, help="of a participant's turn, of which the median counts; default: %(default)s")
    parser.add_argument('--peers', metavar='LIST', type=lambda text: text.split(','), default=list(VARIANTS), help='default: ' + ','.join(VARIANTS))
    parser.add_argument('--kept-memory', choices=['tuned', 'all'], default='tuned', help='peers whose C library keeps freed memory; default: %(default)s')
    parser.add_argument('--without-compile', action='store_true', help='leave the variants under torch.compile out, each of which takes a minute or two to start')
    arguments = parser.parse_args()
    for unknown in set(arguments.peers) - set(VARIANTS):
        parser.error(f'no peer "{unknown}"; there is: {", ".join(VARIANTS)}')
    peers = [name for name in VARIANTS if name in arguments.peers and not (arguments.without_compile and VARIANTS[name].compiled)]
    check_needs(peers)
    report = driver.Report(arguments.json_out)
    for network, batch in driver.networks_of(arguments):
        measure(network, batch, peers, arguments, report)


def check_needs(peers):
    """Before minutes have passed."""
    if any(VARIANTS[name].layers.startswith('brevitas') for name in peers) and not (environment.DEPS / 'bench/brevitas').is_dir():
        raise Failure(f'no Brevitas in {environment.DEPS}/bench: ./dev bench step fetches it; or leave it out with --peers')
    if any(VARIANTS[name].compiled for name in peers) and not environment.python_header().exists():
        raise Failure('torch.compile needs Python.h (Debian package python3-dev): install it, or pass --without-compile')


def measure(network, batch, peers, arguments, report):
    """Times one network and prints its lines."""
    with contextlib.ExitStack() as stack:
        participants = start_all(stack, network, batch, peers, arguments)
        rounds = driver.take_turns(network, participants, arguments.rounds, arguments.steps)
        medians = {name: statistics.median(times) for name, times in rounds.items()}
        for name, seconds in medians.items():
            report.line(f'step/{network}/{name}', seconds, 's')
        for mode, compared in COMPARED.items():
            if mode in rounds:
                for name in compared:
                    compare(network, mode, name, rounds, medians, report)
        split = participants[SPLIT_MODE].split()
        if split is None:
            say(f'{network}: ours does not say where the time of a step goes')
        for part, value in (split or {}).items():
            report.line(f'step/{network}/split/{part}', value, unit_of(part))


def unit_of(part):
    return 'bytes' if part.endswith('_bytes') else 'bytes/s' if part.endswith('_bandwidth') else 's'


def start_all(stack, network, batch, peers, arguments):
    """name -> participant; one after the other, so that nobody's warm-up meets another's."""
    participants = {}
    names = [*COMPARED, *peers]
    for number, name in enumerate(names, 1):
        note = ' (compiles, a minute or two the first time)' if name in VARIANTS and VARIANTS[name].compiled else ''
        say(f'{network}: starting {number}/{len(names)} {name}{note}')
        if name in COMPARED:
            participant = driver.start_ours(name, network, batch, arguments)
        else:
            kept = VARIANTS[name].tuned or arguments.kept_memory == 'all'
            participant = driver.start_peer(name, network, batch, KEPT_MEMORY if kept else {})
        stack.enter_context(participant)
        try:
            participant.wait_until_ready(environment.cores())
        except Unsupported as reason:
            if name not in MAY_BE_MISSING:
                raise Failure(f'{participant.name} is not supported:\n{reason}') from None
            say(f'{network}: left out, ours does not support {name}:\n{reason}')
            continue
        participants[name] = participant
    return participants


def compare(network, mode, name, rounds, medians, report):
    candidates = [peer for peer in BEST.get(name, [name]) if peer in rounds]
    if not candidates:
        return
    peer = min(candidates, key=medians.get)
    ratios = [ours / theirs for ours, theirs in zip(rounds[mode], rounds[peer])]
    report.comparison(f'step/{network}/{mode}_vs_{name}', peer, ratios, *driver.quartiles(ratios))


if __name__ == '__main__':
    driver.run(main)
