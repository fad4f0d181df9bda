"""A stage that grows and shrinks while it is trained, and ends with the bits of one rank."""
import os
import unittest

import harness
from harness import wait_for

# One stage, long enough to be resized twice on a fast machine, too: some 8 s on one core.
RECIPE = """
name: elastic
network: convnet28
data: {name: fashion_mnist, train_limit: 4096, test_limit: 1000}
ranks: 1..2
reduction: fixed_shards
shards: 2
widths: [32]
pretrain: {epochs: 14, learning_rate: 0.05}
"""


class ElasticTest(harness.Case):

    def wait_ranks(self, job, ranks, generation):
        def fits(stage):
            return stage['generation'] >= generation and stage['state'] == 'RUNNING' and len(stage['placement']) == ranks and stage.get('progress', {}).get('step')
        return wait_for(lambda: [s for s in self.describe(job)['stages'] if fits(s)], f'{job} has {ranks} ranks', 90, 0.1)[0]

    def test_a_stage_grows_and_shrinks_and_ends_with_the_bits_of_one_rank(self):
        recipe = self.folder / 'elastic.yaml'
        recipe.write_text(RECIPE)
        self.server('--resize-interval-seconds', '1')
        one, two = sorted(os.sched_getaffinity(0))[:2]  # a thread each
        self.worker('one', slots=1, cores={one})
        job = self.submit(recipe)
        self.wait_ranks(job, 1, 1)
        self.worker('two', slots=1, cores={two})
        grown = self.wait_ranks(job, 2, 2)
        self.assertEqual({p['worker'] for p in grown['placement']}, {'one', 'two'})
        self.assertGreater(grown['resumed_epoch'] * 1000 + grown['resumed_step'], 0)
        self.cli('drain', 'two')
        shrunk = self.wait_ranks(job, 1, 3)
        self.assertEqual({p['worker'] for p in shrunk['placement']}, {'one'})
        done = self.wait_state(job, 'SUCCEEDED')
        stage = done['stages'][0]
        self.assertEqual(stage['attempts'], 1, 'none of it is a failure')
        self.assertTrue(stage['bit_exact'])
        self.assertIn('AttemptStopping grows from 1 to 2 ranks', (self.folder / 'server.log').read_text())

        # `two` is still drained, so there is nothing to grow on.
        alone = self.wait_state(self.submit(recipe, '--no-share'), 'SUCCEEDED')
        self.assertEqual((alone['stages'][0]['generation'], len(alone['stages'][0]['placement'])), (1, 1))
        self.assertEqual(harness.digests(alone), harness.digests(done))
        self.assertEqual(alone['stages'][0]['top1'], stage['top1'])

    def test_a_stage_gives_up_a_rank_for_another_job_and_takes_it_back(self):
        recipe, small = self.folder / 'elastic.yaml', self.folder / 'small.yaml'
        recipe.write_text(RECIPE.replace('epochs: 14', 'epochs: 24'))
        small.write_text('name: small\nnetwork: convnet28\ndata: {name: fashion_mnist, train_limit: 1024, test_limit: 100}\nwidths: [32]\npretrain: {epochs: 1}\n')
        self.server('--resize-interval-seconds', '1')
        one, two = sorted(os.sched_getaffinity(0))[:2]
        self.worker('one', slots=1, cores={one})
        self.worker('two', slots=1, cores={two})
        wait_for(lambda: self.cli('workers').stdout.count('READY') == 2, 'both workers are ready')
        job = self.submit(recipe)
        self.wait_ranks(job, 2, 1)
        other = self.wait_state(self.submit(small), 'SUCCEEDED')
        self.assertEqual(other['stages'][0]['attempts'], 1)
        self.assertEqual(self.describe(job)['state'], 'RUNNING', 'it went on beside the other')
        self.wait_ranks(job, 2, 3)
        done = self.wait_state(job, 'SUCCEEDED')
        stage = done['stages'][0]
        self.assertEqual((stage['attempts'], stage['bit_exact']), (1, True), 'none of it is a failure')
        log = (self.folder / 'server.log').read_text()
        self.assertIn('AttemptStopping shrinks from 2 to 1 ranks, which makes room for jobs/small', log)
        self.assertIn('AttemptStopping grows from 1 to 2 ranks', log)
        alone = self.wait_state(self.submit(recipe, '--no-share', '--set', 'ranks=1'), 'SUCCEEDED')
        self.assertEqual(harness.digests(alone), harness.digests(done))


if __name__ == '__main__':
    unittest.main()
