"""From the rows' files: one JSON document, a table, and plots."""
import json
import re

import safetensors
import safetensors.numpy

TITLES = {
    'full_precision': 'full precision', 'control': 'control: 10 more epochs in full precision', 'baseline': 'baseline', 'ts': 'TS', 'pq': 'PQ', 'ts_pq': 'TS + PQ', 'guided': 'guided',
    'all': 'TS + PQ + guided by features and predictions ("all")', 'lsq': 'LSQ', 'lsq_pq': 'LSQ + PQ', 'lsq_floats': 'LSQ, float shortcuts', 'pact': 'PACT',
    'stochastic': 'stochastic precision', 'ts_guided': 'TS + guided', 'pq_guided': 'PQ + guided', 'per_stage': 'TS + PQ, order per stage',
    'all_features': 'TS + PQ + guided by features', 'all_predictions': 'TS + PQ + guided by features and predictions', 'all_only_logits': 'TS + PQ + guided by predictions',
    **{f'all_steady_t{t}': f'"all", T = {t}, the guiding net at a tenth' for t in (2, 4)},
    'all_bn': '"all", norms at a tenth', 'baseline_bn': 'baseline, norms at a tenth', 'all_30_epochs': '"all", 30 quantised epochs',
    'baseline_30_epochs': 'baseline, 30 quantised epochs', 'weight_norm_std': 'baseline, std weights', 'std': 'baseline, std weights',
    'std_bn': 'std weights, norms at a tenth', 'floats_bn': 'float shortcuts, norms at a tenth',
    'std_floats_bn': 'std weights, float shortcuts, norms at a tenth',
    'all_std_bn': '"all", std weights, norms at a tenth', 'all_std_floats_bn': '"all", std weights, float shortcuts, norms at a tenth',
    'distillation_pq': 'PQ + distillation', 'distillation_ts_pq': 'TS + PQ + distillation',
    'distillation_stage': 'TS + PQ + distillation, a schedule for each stage', 'ts_pq_stage': 'TS + PQ, a schedule for each stage',
}
INK, LOW, GUIDE, GRID = '#1f2430', '#2f6fde', '#8a94a6', '#dfe3ea'


def keep_weights(checkpoint, to):
    """Without momentum, the ranks' own statistics and a guiding net."""
    with safetensors.safe_open(checkpoint, framework='numpy') as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys() if not name.startswith(('momentum/', 'rank', 'full/'))}
    safetensors.numpy.save_file(tensors, to, metadata={key: metadata[key] for key in ('format', 'network', 'stage_name', 'weight_bits', 'activation_bits')})


def write(results, experiment):
    """Writes NAME.json, NAME.md and NAME.svg of the experiment (rows.py) into the folder `results`, from the rows' files in NAME/."""
    done, missing = [], []
    for row in experiment.rows():
        path = results / experiment.name / f'{row.name}.json'
        if path.exists():
            done.append(json.loads(path.read_text()))
        else:
            missing.append(row.name)
    (results / f'{experiment.name}.json').write_text(json.dumps({'rows': done, 'missing': missing}, indent=1) + '\n')
    if done:
        plot(results / f'{experiment.name}.svg', done)
        (results / f'{experiment.name}.md').write_text(table(experiment, done, missing))


def table(experiment, done, missing):
    lines = [
        f'# {experiment.title}',
        f'Written by `{experiment.command}`. 24 full-precision epochs (batch 128, learning rate 0.1, cosine), then 10 quantised epochs in sum over the stages of a method (learning rate 0.02 unless the row says otherwise, cosine). '
        + experiment.measured_on,
        '', f'![accuracy of each row]({experiment.name}.svg)', '', '| method | bits | top-1 by seed | mean | against full precision | guiding net |', '|---|---|---|---|---|---|',
    ]
    reference = {row['seed']: row['top1'] for row in done if row['method'] == 'full_precision'}
    for (method, bits), group in grouped(done).items():
        values = [row['top1'] for row in group]
        drops = [row['top1'] - reference[row['seed']] for row in group if row['seed'] in reference]
        teachers = [row['stages'][-1]['teacher_top1'] for row in group if row['stages'][-1].get('teacher_top1')]
        lines.append(f'| {title(method)} | {bits} | {", ".join(f"{v:.2f}" for v in values)} | {mean(values):.2f} | {mean(drops):+.2f} | {f"{mean(teachers):.2f}" if teachers else ""} |')
    if missing:
        lines += ['', f'Not trained yet ({len(missing)}): ' + ', '.join(f'`{row}`' for row in missing) + '.']
    return '\n'.join(lines) + '\n'


def title(method):
    method, rate = re.fullmatch(r'(.*?)(?:(?:_rate)?_(0\.\d+))?', method).groups()
    calibrated = not method.endswith('no_calibration')
    method = method.removesuffix('no_calibration').rstrip('_') or 'baseline'
    return TITLES.get(method, method.replace('_', ' ')) + ('' if calibrated else ' without calibration') + (f', learning rate {rate}' if rate else '')


def mean(values):
    return sum(values) / len(values)


def grouped(done):
    groups = {}
    for row in done:
        groups.setdefault((row['method'], f'W{row["weight_bits"]}A{row["activation_bits"]}'), []).append(row)
    return groups


def plot(path, done):
    import matplotlib
    matplotlib.use('svg')
    matplotlib.rcParams.update({'svg.hashsalt': 'bitstair', 'font.size': 9, 'axes.edgecolor': GUIDE, 'text.color': INK, 'axes.labelcolor': INK, 'xtick.color': INK, 'ytick.color': INK})
    from matplotlib import pyplot
    widths = [bits for bits in ('W32A32', 'W4A4', 'W2A2') if any(key[1] == bits for key in grouped(done))]
    groups = {bits: [(method, [row['top1'] for row in rows]) for (method, of), rows in grouped(done).items() if of == bits] for bits in widths}
    figure, axes = pyplot.subplots(len(widths), 1, figsize=(8, 0.7 + sum(0.55 + 0.3 * len(groups[bits]) for bits in widths)), sharex=True, squeeze=False,
                                   gridspec_kw={'height_ratios': [len(groups[bits]) + 0.6 for bits in widths]}, layout='constrained')
    full = [row['top1'] for row in done if row['method'] == 'full_precision']
    lowest = min(row['top1'] for row in done)
    for axis, bits in zip(axes[:, 0], widths):
        for y, (method, values) in enumerate(groups[bits]):
            axis.plot([min(values), max(values)], [y, y], color=LOW, linewidth=2, alpha=0.4)
            axis.plot(values, [y] * len(values), 'o', color=LOW, markersize=5)
            axis.annotate(f'{mean(values):.1f}', (max(values), y), xytext=(7, 0), textcoords='offset points', va='center', fontsize=8, zorder=5,
                          bbox={'boxstyle': 'square,pad=0.1', 'facecolor': 'white', 'edgecolor': 'none'})
        if full:
            axis.axvline(mean(full), color=GUIDE, linewidth=1, linestyle='--')
        axis.set_yticks(range(len(groups[bits])), [title(method) for method, _ in groups[bits]])
        axis.set_ylim(len(groups[bits]) - 0.4, -0.6)
        axis.set_xlim(lowest - 2, max(row['top1'] for row in done) + 3)
        axis.set_title(bits, loc='left', fontweight='bold', fontsize=9)
        axis.grid(axis='x', color=GRID, linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ('top', 'right', 'left'):
            axis.spines[side].set_visible(False)
        axis.tick_params(axis='y', length=0)
    # At the right edge: beside long names the axes are narrower than this line.
    axes[-1, 0].set_xlabel('top-1, percent; a dot is a seed, the dashed line is the full-precision net', loc='right')
    figure.savefig(path, metadata={'Date': None})
    pyplot.close(figure)
