"""Distillation with several students, stochastic precision and the telemetry of layers, through the real programs."""
import json
import unittest

import harness
from harness import SMOKE

METHODS = ('--set', 'distillation={students: [2]}', '--set', 'stochastic_precision={}', '--set', 'quantized.epochs=2')
STEPPED = ('--set', 'checkpoint.every_steps=3')


class DistillationTest(harness.Case):

    def test_a_killed_trainer_resumes_bit_for_bit_and_everything_is_reported(self):
        self.server(name='calm')
        self.worker('calm-worker')
        want = self.wait_state(self.submit(SMOKE, *METHODS), 'SUCCEEDED')
        for daemon in self.daemons:
            daemon.kill()

        server = self.server()
        self.worker(env={'BITSTAIR_TEST_CRASH': 'W4A4:1:10:1'})
        job = self.submit(SMOKE, *METHODS, *STEPPED)
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertEqual(done['stages'][-1]['generation'], 2)
        self.assertEqual(harness.digests(done), harness.digests(want))
        for stage in done['stages'][1:]:
            self.assertGreater(stage['top1'], 50.0)
            self.assertGreater(stage['teacher_top1'], 50.0)
            self.assertGreater(stage['divergence'], 0)
            self.assertEqual(len(stage['students']), 1)
            self.assertGreater(stage['students'][0]['top1'], 30.0)
        self.assertEqual(done['stages'][-1]['students'][0]['name'], 'W2A2')
        self.assertIn('W2A2', self.cli('describe', job).stdout)

        # Telemetry is in the command's own list alone, and outlives the coordinator.
        self.assertNotIn('layers', done['stages'][-1]['results'][-1])
        before = self.layers(job)
        server.kill()
        self.server()
        self.assertEqual(self.layers(job), before)
        table = self.cli('describe', job, '--layers').stdout
        self.assertRegex(table, r'layers of W4A4 after epoch \d+')
        self.assertRegex(table, r'student2 +conv2 .*-3: [\d.]+, -1: [\d.]+, 1: [\d.]+, 3: [\d.]+ %')

    def layers(self, job):
        described = json.loads(self.cli('describe', job, '--layers', '--output', 'json').stdout)
        rows = described['stages'][-1]['results'][-1]['layers']
        self.assertEqual({row['net'] for row in rows}, {'', 'full', 'student2'})
        by_name = {(row['net'], row['name']): row for row in rows}
        self.assertGreater(by_name['', 'conv2']['gradient_norm'], 0)
        self.assertAlmostEqual(sum(by_name['student2', 'conv2']['level_shares']), 1, places=5)
        self.assertLessEqual(set(by_name['student2', 'conv2']['levels']), {-3, -1, 1, 3})
        self.assertNotIn('levels', by_name['full', 'conv2'])
        self.assertLess(by_name['full', 'relu2']['clipped_share'], 1)
        return rows

    def test_recipes_that_cannot_be_are_refused(self):
        result = self.cli('plan', SMOKE, '--set', 'distillation={students: [2, 32]}', check=2)
        self.assertIn('distillation.students[1]', result.stderr)
        result = self.cli('plan', SMOKE, '--set', 'distillation={}', '--set', 'guided={}', check=2)
        self.assertIn('exclude each other', result.stderr)
        result = self.cli('plan', SMOKE, '--set', 'stochastic_precision.full_share_at=0', check=2)
        self.assertIn('stochastic_precision.full_share_at is 0', result.stderr.replace(': is', ' is'))


if __name__ == '__main__':
    unittest.main()
