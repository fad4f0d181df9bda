"""The rows of the experiment on CIFAR-100 with ResNet-20, in the order in which they are trained."""
import dataclasses
from collections.abc import Callable

EPOCHS = 10  # of a row's quantised stages in sum, and of the control


@dataclasses.dataclass(frozen=True)
class Row:
    method: str
    recipe: str  # of recipes/, without .yaml
    seed: int
    weight_bits: int = 32
    activation_bits: int = 32
    settings: tuple[str, ...] = ()  # of `bitstair run --set`
    # Starts from the weights of the full-precision row of its seed.
    from_full_precision: bool = True

    @property
    def name(self):
        return f'{self.method}_w{self.weight_bits}a{self.activation_bits}_seed{self.seed}'


LAMBDA = 1  # of guided training: see the tuning
# "all" compares predictions beside the features of the paper's hint points: see the tuning.
PREDICTIONS = 'guided.hint_points=[layer2, layer3, logits]'
STD = 'weight_norm=std'
SLOW_NORMS = 'batch_norm_learning_rate_factor=0.1'
HIGH_RATE = ('quantized.learning_rate=0.05', SLOW_NORMS)  # which calibrated nets bear when batch norms learn more slowly: docs/methods.md
FLOATS = 'shortcut_values=float'
# Epochs of each stage. What counts is how long the last one is trained (docs/methods.md), so the others have one each.
STAGE_EPOCHS = {'ts': [1, 9], 'pq': [1, 9], 'ts_pq': [1, 1, 1, 7]}


def quantised(method, recipe, bits, seed, settings=()):
    widths = [32, 2 * bits, bits] if 'pq' in recipe else [32, bits]
    stages = STAGE_EPOCHS.get(recipe.removeprefix('guided_'))
    epochs = f'quantized.stage_epochs={stages}' if stages else f'quantized.epochs={EPOCHS}'
    if 'guided' in recipe:
        settings = (f'guided.lambda={LAMBDA}', *settings)
    return Row(method, f'cifar100_resnet20_{recipe}', seed, bits, bits, (f'widths={widths}', epochs, *settings))


def all_methods(bits, seed):
    return quantised('all', 'guided_ts_pq', bits, seed, (PREDICTIONS,))


def full_precision(seed):
    return Row('full_precision', 'cifar100_resnet20', seed, from_full_precision=False)


def test_rows():
    result = [full_precision(1), full_precision(2)]
    methods = [('baseline', 'baseline'), ('ts', 'ts'), ('pq', 'pq'), ('ts_pq', 'ts_pq'), ('guided', 'guided')]
    for seed in (1, 2):
        result += [*(quantised(method, recipe, 2, seed) for method, recipe in methods), all_methods(2, seed)]
    result += [quantised('baseline', 'baseline', 4, 1), all_methods(4, 1), quantised('guided', 'guided', 4, 1), quantised('lsq', 'lsq', 4, 1)]
    # With the paper's hint points alone; a higher learning rate.
    result += [quantised('all_features', 'guided_ts_pq', bits, seed) for bits, seed in [(2, 1), (2, 2), (4, 1)]]
    rate = 'quantized.learning_rate=0.03'
    result += [quantised('baseline_rate_0.03', 'baseline', 2, 1, (rate,)), quantised('all_rate_0.03', 'guided_ts_pq', 2, 1, (PREDICTIONS, rate))]
    # Three times as long, where three epochs for earlier stages cost little.
    result += [quantised('baseline_30_epochs', 'baseline', 2, 1, ('quantized.epochs=30',)),
               quantised('all_30_epochs', 'guided_ts_pq', 2, 1, (PREDICTIONS, 'quantized.epochs=30', 'quantized.stage_epochs=[1, 1, 1, 27]'))]
    # Batch norms at a tenth of that rate: seed 2 of "all" did not bear 0.03 without (docs/methods.md).
    result += [quantised('all_bn_0.03', 'guided_ts_pq', 2, 2, (PREDICTIONS, rate, SLOW_NORMS))]
    result += [quantised('lsq_rate_0.05', 'lsq', 4, seed, ('quantized.learning_rate=0.05',)) for seed in (1, 2)]  # the tuning's choice
    result += [Row('control', 'cifar100_resnet20', 1, settings=(f'pretrain.epochs={EPOCHS}', 'pretrain.learning_rate=0.02'))]
    result += [quantised('no_calibration', 'baseline', bits, 1, ('activation_calibration=none',)) for bits in (4, 2)]
    result += [quantised(method, recipe, bits, 1) for bits in (4, 2) for method, recipe in [('ts_guided', 'guided_ts'), ('pq_guided', 'guided_pq')]]
    result += [quantised(method, recipe, 4, 1) for method, recipe in [('ts', 'ts'), ('pq', 'pq'), ('ts_pq', 'ts_pq')]]
    result += [quantised('per_stage', 'ts_pq', 2, 1, ('order=per_stage',))]
    result += [quantised(method, method, bits, 1) for method in ('lsq', 'pact') for bits in (2, 4) if (method, bits) != ('lsq', 4)]
    result += [quantised('stochastic', 'stochastic', bits, 1, ('ranks=1',)) for bits in (2, 4)]
    result += [quantised('lsq_floats_rate_0.05', 'lsq', 4, seed, (FLOATS, 'quantized.learning_rate=0.05')) for seed in (1, 2)]
    # The tuning's choice for plain nets: weights divided by their deviation, batch norms that learn at a tenth.
    for bits, name, settings in [(4, 'std_bn', (STD,)), (4, 'std_floats_bn', (STD, FLOATS)), (2, 'std_floats_bn', (STD, FLOATS))]:
        result += [quantised(f'{name}_0.05', 'baseline', bits, seed, (*settings, *HIGH_RATE)) for seed in (1, 2)]
    result += [quantised('all_std_bn_0.05', 'guided_ts_pq', 4, 1, (PREDICTIONS, STD, *HIGH_RATE))]
    # Beside the paper's literal baseline, which has no calibration.
    result += [quantised(f'{method}_no_calibration', recipe, 2, 1, ('activation_calibration=none',))
               for method, recipe in [('all_features', 'guided_ts_pq'), ('ts_pq', 'ts_pq'), ('pq', 'pq'), ('ts', 'ts'), ('guided', 'guided')]]
    return result


# Settings are chosen on the last 5,000 training images, which these rows are not trained on, and not on the test images; one exception: docs/methods.md, the learning
# rate of "all".
HELD_BACK = 5000


def tuning_rows():
    result = [full_precision(1), quantised('baseline', 'baseline', 2, 1)]
    result += [quantised(f'lambda_{weight}', 'guided', 2, 1, (f'guided.lambda={weight}',)) for weight in (1, 10)]
    result += [quantised(f'baseline_rate_{rate}', 'baseline', 2, 1, (f'quantized.learning_rate={rate}',)) for rate in (0.03, 0.05)]
    # Half as many epochs, to see which way a setting goes.
    short = ('quantized.epochs=5', 'quantized.learning_rate=0.05')
    result += [quantised('short_baseline', 'baseline', 2, 1, short), quantised('short_baseline_percentile_98', 'baseline', 2, 1, (*short, 'calibration_percentile=98')),
               quantised('short_ts', 'ts', 2, 1, (*short, 'quantized.stage_epochs=[1, 4]')), quantised('short_pq', 'pq', 2, 1, (*short, 'quantized.stage_epochs=[1, 4]')),
               quantised('short_guided_layer2', 'guided', 2, 1, (*short, 'guided.lambda=10', 'guided.hint_points=[layer2]'))]
    # Four bits: LSQ's learning rate, and shortcuts that are not rounded.
    result += [quantised('lsq', 'lsq', 4, 1), quantised('lsq_rate_0.05', 'lsq', 4, 1, ('quantized.learning_rate=0.05',))]
    result += [quantised('lsq_floats_rate_0.05', 'lsq', 4, 1, (FLOATS, 'quantized.learning_rate=0.05'))]
    result += [quantised(f'float_shortcuts_rate_{rate}', 'baseline', 4, 1, (FLOATS, f'quantized.learning_rate={rate}')) for rate in (0.02, 0.05)]
    # Two bits: learning from the teacher's predictions, where hints have not helped.
    one_student = ('distillation.students=[]', 'ranks=1', 'distillation.temperature=4', 'distillation.student_weight=1')
    result += [quantised('distillation', 'distillation', 2, 1, one_student)]
    # With PQ, with TS too, and with a schedule for each stage, so that earlier stages end with a low learning rate.
    for method, rate, epochs, options in [('pq', 0.02, [1, 9], ()), ('ts_pq', 0.03, [1, 1, 1, 7], ('two_stage=true',)),
                                          ('stage', 0.03, [1, 1, 1, 7], ('two_stage=true', 'schedule=stage'))]:
        settings = ('widths=[32, 4, 2]', f'quantized.stage_epochs={epochs}', *one_student, f'quantized.learning_rate={rate}', *options)
        result += [Row(f'distillation_{method}_{rate}', 'cifar100_resnet20_distillation', 1, 2, 2, settings)]
    result += [quantised('ts_pq_stage_0.01', 'ts_pq', 2, 1, ('quantized.learning_rate=0.01', 'schedule=stage'))]
    # The same by guided training.
    for name, points, rate in [('all_predictions_0.02', PREDICTIONS, 0.02), ('all_predictions_0.03', PREDICTIONS, 0.03), ('all_only_logits_0.03', 'guided.hint_points=[logits]', 0.03)]:
        result += [quantised(name, 'guided_ts_pq', 2, 1, (points, f'quantized.learning_rate={rate}'))]
    # A guiding net that keeps closer to what it was (by default it has 0.2 of the learning rate), and a lower temperature.
    for temperature in (2, 4):
        settings = (PREDICTIONS, f'guided.temperature={temperature}', 'guided.teacher_learning_rate_factor=0.02', 'quantized.learning_rate=0.03')
        result += [quantised(f'all_steady_t{temperature}_0.03', 'guided_ts_pq', 2, 1, settings)]
    # Batch norms at a tenth of the rate, which lets calibrated nets bear more.
    result += [quantised('baseline_bn_0.05', 'baseline', 2, 1, HIGH_RATE)]
    # Two-bit weights that do not start nearly binary; all three methods, guided by features, with a higher rate.
    result += [quantised('weight_norm_std', 'baseline', 2, 1, (STD,))]
    result += [quantised('std_0.03', 'baseline', 2, 1, (STD, 'quantized.learning_rate=0.03')), quantised('std_bn_0.05', 'baseline', 2, 1, (STD, *HIGH_RATE))]
    # And with shortcuts that are not rounded: with and without the methods.
    result += [quantised('std_floats_bn_0.05', 'baseline', 2, 1, (STD, FLOATS, *HIGH_RATE)), quantised('all_std_floats_bn_0.05', 'guided_ts_pq', 2, 1, (PREDICTIONS, STD, FLOATS, *HIGH_RATE))]
    result += [quantised('all_features_rate_0.05', 'guided_ts_pq', 2, 1, ('quantized.learning_rate=0.05',))]
    # Four bits: batch norms that learn at a tenth, weights divided by their deviation, shortcuts that are not rounded.
    result += [quantised('floats_bn_0.05', 'baseline', 4, 1, (FLOATS, *HIGH_RATE)), quantised('std_bn_0.05', 'baseline', 4, 1, (STD, *HIGH_RATE)),
               quantised('std_floats_bn_0.05', 'baseline', 4, 1, (STD, FLOATS, *HIGH_RATE))]
    return [dataclasses.replace(row, settings=(*row.settings, f'data.held_back={HELD_BACK}')) for row in result]


@dataclasses.dataclass(frozen=True)
class Experiment:
    name: str  # of its folder and files in docs/results/
    command: str
    title: str
    images: str
    measured_on: str
    rows: Callable[[], list[Row]]  # in order


TEST = Experiment('cifar100_resnet20', './dev ablation', 'CIFAR-100, ResNet-20', 'test', 'Accuracy on the 10,000 test images at the end, in percent; the guiding net is thrown away.', test_rows)
TUNING = Experiment('cifar100_resnet20_tuning', './dev ablation --tuning', 'CIFAR-100, ResNet-20: settings chosen on held-back images', 'held back',
                    'Accuracy at the end, in percent, on the last 5,000 training images, which were not trained on.', tuning_rows)
