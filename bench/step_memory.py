#!/usr/bin/env python3
"""How much memory training takes: ours with 4 bits against PyTorch in float32.

A value is the peak of the resident set over whole steps, less what the process held with its libraries loaded but before the network, the data and the optimiser
existed; in bytes, the median over fresh processes. A comparison's value is the median of ours / peer over pairs of processes; low and high are the least and the greatest.
"""
import statistics

from peers import driver, environment
from peers.driver import say
from peers.participant import Failure, Unsupported

MODE = 'w4a4'
PEER = 'torch_fp32'


def main():
    parser = driver.command_line(__doc__)
    parser.add_argument('--runs', type=driver.positive, default=9, help='fresh processes of each; default: %(default)s')
    arguments = parser.parse_args()
    report = driver.Report(arguments.json_out)
    for network, batch in driver.networks_of(arguments):
        taken = {MODE: [], PEER: []}
        for number in range(arguments.runs):
            say(f'{network}: pair {number + 1}/{arguments.runs}')
            taken[MODE].append(bytes_taken(driver.start_ours(MODE, network, batch, arguments)))
            taken[PEER].append(bytes_taken(driver.start_peer(PEER, network, batch)))
        for name, values in taken.items():
            report.line(f'step_memory/{network}/{name}', int(statistics.median(values)), 'bytes')
        ratios = [ours / peer for ours, peer in zip(taken[MODE], taken[PEER])]
        report.comparison(f'step_memory/{network}/{MODE}_vs_{PEER}', PEER, ratios, min(ratios), max(ratios))


def bytes_taken(participant):
    with participant:
        try:
            participant.wait_until_ready(environment.cores())
        except Unsupported as reason:
            raise Failure(f'{participant.name} is not supported:\n{reason}') from None
        answer = participant.ask('memory', 'baseline_bytes', 'peak_bytes')
        taken = answer['peak_bytes'] - answer['baseline_bytes']
        if taken <= 0:
            participant.fail(f'answered "memory" with {answer}')
        return taken


if __name__ == '__main__':
    driver.run(main)
