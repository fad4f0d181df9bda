"""Trains the rows of the experiment on CIFAR-100 with ResNet-20 that have no result yet, one after the other: ./dev ablation --data FOLDER

Each finished row is two files in docs/results/cifar100_resnet20/: NAME.json, and NAME.safetensors with its weights. Rows that start from a full-precision row take its weights
from there, so that the experiment can be stopped at any time and goes on on another machine. A row that was stopped goes on from its last checkpoint on the same machine.
After each row, docs/results/cifar100_resnet20.json and .md with their plots are written anew.
"""
import argparse
import fnmatch
import json
import os
import pathlib
import subprocess
import sys

import report
import rows as experiment

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'docs/results'


class Failure(Exception):
    pass


def main():
    parser = argparse.ArgumentParser(prog='./dev ablation', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', metavar='FOLDER', type=pathlib.Path, help='with train.bin and test.bin of CIFAR-100, or these with .xz')
    parser.add_argument('--rows', metavar='PATTERN', default='*', help="only rows whose name matches, e.g. '*_w2a2_seed1'; the full-precision ones that they start from are trained, too")
    parser.add_argument('--tuning', action='store_true', help=f'the rows that settings are chosen by: {experiment.HELD_BACK} training images are held back and take the place of the test images')
    parser.add_argument('--list', action='store_true', help='only say which rows are there and which are missing')
    parser.add_argument('--report', action='store_true', help='only write tables and plots')
    arguments = parser.parse_args()
    chosen = experiment.TUNING if arguments.tuning else experiment.TEST
    folder, all_rows = RESULTS / chosen.name, chosen.rows()
    wanted = [row for row in all_rows if fnmatch.fnmatch(row.name, arguments.rows)]
    if not wanted:
        parser.error(f'--rows {arguments.rows}: no such row; there are: {", ".join(row.name for row in all_rows)}')
    missing = missing_rows(folder, all_rows, wanted)
    done = sum(is_done(folder, row) for row in wanted)
    say(f'{done} of {len(wanted)} rows are done' + (f'; missing: {", ".join(row.name for row in missing)}' if missing else ''))
    if arguments.list:
        return
    if missing and not arguments.report:
        if arguments.data is None:
            parser.error('--data FOLDER is needed, with the files of CIFAR-100')
        train_all(chosen, missing, arguments.data)
    report.write(RESULTS, chosen)


def missing_rows(folder, all_rows, wanted):
    """In order; with the full-precision rows that others start from."""
    parents = {row.seed for row in wanted if row.from_full_precision and not is_done(folder, row)}
    return [row for row in all_rows if not is_done(folder, row) and (row in wanted or (not row.from_full_precision and row.seed in parents))]


def is_done(folder, row):
    return (folder / f'{row.name}.json').exists() and (folder / f'{row.name}.safetensors').exists()


def train_all(chosen, missing, data):
    if not data.is_dir():
        raise Failure(f'--data {data}: no such folder')
    (RESULTS / chosen.name).mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(missing, 1):
        say(f'row {number} of {len(missing)}: {row.name}')
        train(chosen, row, data.resolve())
        report.write(RESULTS, chosen)


def train(chosen, row, data):
    folder, state = RESULTS / chosen.name, state_dir(chosen, row)
    settings = [f'name={row.name.replace("_", "-")}', f'seed={row.seed}', *row.settings]
    if row.from_full_precision:
        # From the root of the checkout, where the command runs.
        settings.append(f'initial_weights.path={(folder / experiment.full_precision(row.seed).name).relative_to(ROOT)}.safetensors')
    recipe = f'recipes/{row.recipe}.yaml'
    command = [str(ROOT / 'build' / os.environ.get('BITSTAIR_PRESET', 'dev') / 'bin/bitstair'), 'run', recipe, '--slots', '1', '--data', f'cifar100={data}', '--output', 'json',
               '--state-dir', str(state)]
    for setting in settings:
        command += ['--set', setting]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Failure(f'{row.name}: bitstair run ended with {done.returncode}; the same command goes on from the last checkpoint')
    job = json.loads(done.stdout)
    last = job['stages'][-1]
    weights = list(state.rglob(last['checkpoint_sha256']))  # of the artifact store
    if not weights:
        raise Failure(f'{row.name}: no file of checkpoint {last["checkpoint_sha256"]} in {state}')
    report.keep_weights(weights[0], folder / f'{row.name}.safetensors')
    result = {
        'method': row.method, 'weight_bits': row.weight_bits, 'activation_bits': row.activation_bits, 'seed': row.seed, 'top1': last['top1'], 'top5': last['top5'],
        'commit': commit(), 'command': ' '.join([f'bitstair run {recipe} --slots 1 --data cifar100=FOLDER', *(f"--set '{setting}'" for setting in settings)]),
        'seconds': round(job['seconds'], 1), 'images': chosen.images,
        'stages': [{key: stage[key] for key in ('name', 'epochs', 'top1', 'top5', 'teacher_top1', 'hint') if key in stage} for stage in job['stages']],
    }
    (folder / f'{row.name}.json').write_text(json.dumps(result, indent=1) + '\n')
    say(f'{row.name}: top-1 {last["top1"]:.2f} %')


def state_dir(chosen, row):
    cache = pathlib.Path(os.environ.get('BITSTAIR_CACHE') or pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'bitstair')
    return cache / 'ablation' / chosen.name / row.name


def commit():
    git = ['git', '-C', str(ROOT)]
    return subprocess.run([*git, 'rev-parse', '--short=12', 'HEAD'], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def say(text):
    print(f'ablation: {text}', file=sys.stderr, flush=True)


if __name__ == '__main__':
    try:
        main()
    except Failure as failure:
        print(f'ablation: {failure}', file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print('ablation: stopped; the same command goes on', file=sys.stderr)
        sys.exit(130)
