#!/usr/bin/env python3
"""How long a newcomer and a developer wait: `./dev test` from an empty compile cache in a fresh clone, and the rebuild after a change in one core source file.

Downloads are not part of it: the dependency folder is shared with this checkout. --quick leaves the first figure out.
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHANGED_FILE = 'core/quant/dorefa.cc'


def report(name, seconds):
    print(json.dumps({'name': name, 'value': round(seconds, 1), 'unit': 's'}), flush=True)


def timed(command, cwd, env):
    start = time.monotonic()
    subprocess.run(command, cwd=cwd, env=env, check=True, stdout=sys.stderr)
    return time.monotonic() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--quick', action='store_true', help='only the rebuild, in this checkout')
    arguments = parser.parse_args()
    env = dict(os.environ)
    if arguments.quick:
        rebuild(ROOT, env)
        return
    with tempfile.TemporaryDirectory(prefix='bitstair-bench-') as folder:
        clone = pathlib.Path(folder, 'bitstair')
        subprocess.run(['git', 'clone', '-q', str(ROOT), str(clone)], check=True)
        env['CCACHE_DIR'] = str(pathlib.Path(folder, 'ccache'))
        report('build/dev_test_from_empty_cache', timed(['./dev', 'test'], clone, env))
        rebuild(clone, env)


def rebuild(tree, env):
    """A comment is appended to one core source file, the tree is built, and the file is put back."""
    source = pathlib.Path(tree, CHANGED_FILE)
    timed(['./dev', 'build'], tree, env)
    kept = pathlib.Path(str(source) + '.bench')
    shutil.copy2(source, kept)
    try:
        with source.open('a') as file:
            file.write(f'\n// {time.time_ns()}\nnamespace {{ [[maybe_unused]] constexpr long kBench = {time.time_ns()}; }}\n')
        report('build/rebuild_one_core_file', timed(['./dev', 'build'], tree, env))
    finally:
        shutil.move(kept, source)


if __name__ == '__main__':
    main()
