#!/usr/bin/env python3
"""A guided pair in two processes beside the same pair in one (bench/split_pair.cc): over loopback, then over links of given rates.

A link is a network of the program's own, whose loopback the kernel holds to the rate (tc, tbf); both directions share it. That needs root; without it the links are
left out, and said so.
"""
import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--links', nargs='*', default=['1gbit', '100mbit'], metavar='RATE', help='as tc writes them; default: 1gbit 100mbit')
    arguments, others = parser.parse_known_args()
    program = [str(ROOT / 'build' / os.environ.get('BITSTAIR_PRESET', 'dev') / 'bin' / 'bench_split_pair'), *others]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    status = subprocess.run(program, env=environment, check=False).returncode
    for rate in arguments.links if status == 0 else []:
        limit = f'ip link set lo up && tc qdisc add dev lo root tbf rate {rate} burst 256kb latency 400ms'
        if os.geteuid() != 0 or subprocess.run(['unshare', '-n', 'sh', '-c', limit], capture_output=True, check=False).returncode != 0:
            print(f'split_pair: no link of {rate}: that needs root, unshare, ip and tc', file=sys.stderr)
            continue
        status = subprocess.run(['unshare', '-n', 'sh', '-c', f'{limit} && exec "$@"', 'sh', *program, '--link', rate], env=environment, check=False).returncode or status
    return status


if __name__ == '__main__':
    sys.exit(main())
