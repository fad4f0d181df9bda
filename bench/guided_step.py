#!/usr/bin/env python3
"""What a step of a guided pair costs beside the steps of its two nets alone.

Three programs of ours are started once and take turns, a few steps each, in every round: the pair (W4A4 and full precision), the W4A4 net alone, and the
full-precision net alone. guided_step/vs_sum is the median over the rounds of pair / (low + full), all of the same round; low and high are its quartiles. Below 1 is
possible: both nets share the batch.
"""
import contextlib
import statistics

from peers import driver, environment
from peers.driver import say
from peers.participant import Failure, Unsupported

PAIR, LOW, FULL = 'guided_w4a4', 'w4a4', 'bf16'


def main():
    parser = driver.command_line(__doc__)
    parser.set_defaults(network='resnet20')
    parser.add_argument('--rounds', type=driver.positive, default=15, help='default: %(default)s')
    parser.add_argument('--steps', type=driver.positive, default=3, help="of a participant's turn, of which the median counts; default: %(default)s")
    arguments = parser.parse_args()
    report = driver.Report(arguments.json_out)
    for network, batch in driver.networks_of(arguments):
        with contextlib.ExitStack() as stack:
            participants = {mode: start(stack, mode, network, batch, arguments) for mode in (PAIR, LOW, FULL)}
            rounds = driver.take_turns(network, participants, arguments.rounds, arguments.steps)
        for name, times in rounds.items():
            report.line(f'guided_step/{network}/{name}', statistics.median(times), 's')
        ratios = [pair / (low + full) for pair, low, full in zip(rounds[PAIR], rounds[LOW], rounds[FULL])]
        line = 'guided_step/vs_sum' if network == 'resnet20' else f'guided_step/{network}/vs_sum'
        report.comparison(line, f'{LOW}+{FULL}', ratios, *driver.quartiles(ratios))


def start(stack, mode, network, batch, arguments):
    say(f'{network}: starting {mode}')
    participant = stack.enter_context(driver.start_ours(mode, network, batch, arguments))
    try:
        participant.wait_until_ready(environment.cores())
    except Unsupported as reason:
        raise Failure(f'{participant.name} is not supported:\n{reason}') from None
    return participant


if __name__ == '__main__':
    driver.run(main)
