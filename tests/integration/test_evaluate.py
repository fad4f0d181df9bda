"""bitstair evaluate: accuracy of files of weights, from the command line, and what it refuses."""
import json
import os
import pathlib
import random
import unittest

import numpy
from safetensors.numpy import load_file, save_file

import harness
from harness import FASHION_MNIST, SMOKE

IMAGES = 300
PRETRAINED = pathlib.Path(os.environ.get('BITSTAIR_TEST_DATA') or '/nonexistent') / 'weights' / 'akamaster_cifar10_resnet'


class EvaluateTest(harness.Case):

    def evaluate(self, *arguments, output='json'):
        done = self.cli('evaluate', *arguments, '--output', output)
        return json.loads(done.stdout) if output == 'json' else done.stdout

    def refused(self, *arguments, words):
        done = self.cli('evaluate', *arguments, check=2)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.stdout, '')

    def trained(self):
        """What a short run says of its last stage, and that stage's checkpoint."""
        run = self.cli('run', SMOKE, '--set', 'data.train_limit=1024', '--set', f'data.test_limit={IMAGES}', '--set', 'pretrain.epochs=1', '--set', 'quantized.epochs=2',
                       '--quiet', '--output', 'json', '--state-dir', self.folder / 'run')
        stage = json.loads(run.stdout)['stages'][-1]
        return stage, next(path for path in (self.folder / 'run').rglob(f'{stage["checkpoint_sha256"]}*') if not path.name.endswith('.json'))

    def test_a_checkpoint_has_the_accuracy_that_its_run_told(self):
        stage, checkpoint = self.trained()
        own = ('--weights', checkpoint, '--limit', IMAGES)
        result = self.evaluate(*own, '--data', 'fashion_mnist')
        self.assertEqual((result['network'], result['weight_bits'], result['activation_bits'], result['numerics']), ('convnet28', 4, 4, 'fast'))
        self.assertEqual((result['images'], result['skipped_images'], result['missing'], result['unexpected']), (IMAGES, 0, [], []))
        self.assertEqual(result['data'], str(FASHION_MNIST))
        self.assertAlmostEqual(result['top1'], stage['top1'], places=9)
        self.assertAlmostEqual(result['top5'], stage['top5'], places=9)
        self.assertGreater(result['top5'], result['top1'])
        self.assertGreater(result['top1'], 20)

        # Data as a folder, under its own name, and under any name as `bitstair run --data` takes it; in each of the formats.
        for data in (FASHION_MNIST, f'fashion_mnist={FASHION_MNIST}', f'clothes={FASHION_MNIST}'):
            self.assertEqual(self.evaluate(*own, '--data', data), result)
        self.assertEqual(self.evaluate(*own, '--data', 'fashion_mnist', output='table'),
                         f'convnet28 W4A4 on {FASHION_MNIST}, test images: top-1 {result["top1"]:.2f} %, top-5 {result["top5"]:.2f} % of {IMAGES} images\n')
        yaml = self.evaluate(*own, '--data', 'fashion_mnist', output='yaml').splitlines()
        for line in ('network: "convnet28"', f'images: {IMAGES}', f'top1: {json.dumps(result["top1"])}', 'missing: []'):
            self.assertIn(line, yaml)

        self.data_that_is_not_there(own)
        self.files_that_do_not_fit(checkpoint)

    def data_that_is_not_there(self, own):
        self.refused(*own, '--data', 'cifar100', words=['--data cifar100: no folder, and no data set "cifar100" here (there is: fashion_mnist)', 'give --data cifar100=PATH'])
        self.refused(*own, '--data', f'cifar100={self.folder}/absent', words=[f'{self.folder}/absent is no folder'])
        self.refused(*own, '--data', 'cifar100=', words=['--data cifar100=: write NAME=PATH'])
        empty = self.folder / 'empty'
        empty.mkdir()
        self.refused(*own, '--data', empty, words=[f'no data set in {empty}: looked for'])
        for flag, value, words in [('--mean', '0.5,0.5', '--mean has 2 values, but the images have 1 channel'), ('--mean', 'grey', '--mean'), ('--mean', 'nan', '--mean must be finite'),
                                   ('--std', '0', '--std must be above 0'), ('--std', '0.5,0.5', '--std has 2 values'), ('--limit', '-1', '--limit'), ('--output', 'xml', '--output')]:
            with self.subTest(flag=flag, value=value):
                self.refused(*own, '--data', 'fashion_mnist', flag, value, words=[words])

    def files_that_do_not_fit(self, checkpoint):
        data = ('--data', 'fashion_mnist', '--limit', IMAGES)
        absent = self.folder / 'absent.safetensors'
        self.refused('--weights', absent, *data, words=[str(absent)])
        self.refused('--weights', checkpoint, *data, '--network', 'resnet21', words=['unknown network "resnet21"; known: ', 'resnet20'])
        self.refused(*data, words=['--weights'])
        cut = self.folder / 'cut'
        cut.write_bytes(checkpoint.read_bytes()[:-100])
        self.refused('--weights', cut, *data, words=[f'{cut}: byte'])

        # As another program would write the network: no metadata, no momentum.
        tensors = {name: tensor for name, tensor in load_file(checkpoint).items() if '/' not in name}
        file = self.folder / 'file.safetensors'
        widths = ('--weight-bits', 4, '--activation-bits', 4)

        def write(**changes):
            changed = {**tensors, **{name.replace('__', '.'): tensor for name, tensor in changes.items()}}
            save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, file)
            return ('--weights', file, *data)

        self.refused(*write(), words=['--network is required'])
        whole = self.evaluate(*write(), '--network', 'convnet28', *widths)
        self.assertEqual({**whole, 'weights': ''}, {**self.evaluate('--weights', checkpoint, *data), 'weights': ''})
        named = ('--network', 'convnet28', *widths)
        shape = list(tensors['conv2.weight'].shape)
        self.refused(*write(conv2__weight=numpy.zeros((3, 4), numpy.float32)), *named, '--allow-missing', '--allow-unexpected',
                     words=[str(file), 'do not fit network convnet28', f'conv2.weight has shape [3, 4] instead of {shape}'])
        self.refused(*write(conv2__weight=numpy.zeros(shape, numpy.int64)), *named, words=['conv2.weight is not of a floating-point type'])
        more = write(head__weight=numpy.zeros(1, numpy.float32))
        self.refused(*more, *named, '--allow-missing', words=[str(file), 'unexpected: head.weight'])
        self.assertEqual(self.evaluate(*more, *named, '--allow-unexpected'), {**whole, 'unexpected': ['head.weight']})
        less = write(fc2__bias=None)
        self.refused(*less, *named, '--allow-unexpected', words=[str(file), 'missing: fc2.bias'])
        self.assertEqual(self.evaluate(*less, *named, '--allow-missing')['missing'], ['fc2.bias'])

    @unittest.skipUnless(PRETRAINED.is_dir(), f'no {PRETRAINED}')
    def test_pretrained_networks_of_pytorch_rank_the_classes_as_their_logits_do(self):
        data = self.folder / 'cifar10'
        data.mkdir()
        generator = random.Random(6)
        pixels = [generator.randbytes(3072) for _ in range(40)]

        def label(labels):
            for name in ('test_batch', *(f'data_batch_{i}' for i in range(1, 6))):
                (data / f'{name}.bin').write_bytes(b''.join(bytes([int(one)]) + image for one, image in zip(labels, pixels)))

        label([0] * len(pixels))
        weights = next(PRETRAINED.glob('resnet20*.th'))
        arguments = ('--network', 'resnet20', '--weights', weights, '--data', f'cifar10={data}', '--mean', '0.485,0.456,0.406', '--std', '0.229,0.224,0.225')
        self.evaluate(*arguments, '--logits', self.folder / 'logits')
        ranking = numpy.argsort(-load_file(self.folder / 'logits')['logits'], axis=1)
        for place, top1, top5 in [(0, 100, 100), (1, 0, 100), (4, 0, 100), (5, 0, 0)]:
            label(ranking[:, place])
            result = self.evaluate(*arguments)
            self.assertEqual((result['top1'], result['top5'], result['images'], result['numerics']), (top1, top5, len(pixels), 'reference'))


if __name__ == '__main__':
    unittest.main()
