"""A guided job through the real programs: both nets are trained, reported and resumed."""
import json
import unittest

import harness
from harness import SMOKE

GUIDED = ('--set', 'guided={lambda: 1, hint_points: [conv3, fc1, logits]}', '--set', 'quantized.epochs=2')
STEPPED = ('--set', 'checkpoint.every_steps=3')


class GuidedTest(harness.Case):

    def test_a_killed_trainer_of_a_pair_resumes_bit_for_bit(self):
        self.server(name='calm')
        self.worker('calm-worker')
        job = self.submit(SMOKE, *GUIDED)
        want = self.wait_state(job, 'SUCCEEDED')
        for daemon in self.daemons:
            daemon.kill()

        self.server()
        # The second pair stage, whose parent is a pair, loses a rank.
        self.worker(env={'BITSTAIR_TEST_CRASH': 'W4A4:1:10:1'})
        job = self.submit(SMOKE, *GUIDED, *STEPPED)
        done = self.wait_state(job, 'SUCCEEDED')
        last = done['stages'][-1]
        self.assertEqual(last['generation'], 2)
        self.assertGreater(last['resumed_epoch'] * 1000 + last['resumed_step'], 0, 'the second generation began at a step above zero')
        self.assertEqual(harness.digests(done), harness.digests(want))

        for stage in done['stages'][1:]:
            self.assertGreater(stage['top1'], 50.0)
            self.assertGreater(stage['teacher_top1'], 50.0)
            self.assertGreater(stage['hint'], 0)
            for result in stage['results']:
                self.assertGreater(result['teacher']['train_top1'], 0)
        self.assertNotIn('teacher_top1', done['stages'][0], 'the full-precision stage is no pair')
        self.assertIn('teacher', self.cli('describe', job).stdout)
        self.assertRegex(self.cli('describe', job, '--layers').stdout, r'(?m)^- +logits +- +- +0\.\d+ ')

    def test_killing_either_side_of_a_split_pair_restarts_both_from_one_checkpoint(self):
        split = (*GUIDED, '--set', 'ranks=1', '--set', 'placement=split')
        self.server(name='calm')
        self.worker('calm-worker')
        want = harness.digests(self.wait_state(self.submit(SMOKE, *split), 'SUCCEEDED'))
        for daemon in self.daemons:
            daemon.kill()
        for side in (0, 1):  # each net has one rank
            self.server(name=f'server-{side}')
            worker = self.worker(f'worker-{side}', env={'BITSTAIR_TEST_CRASH': f'W4A4:{side}:10:1'})
            done = self.wait_state(self.submit(SMOKE, *split, *STEPPED), 'SUCCEEDED')
            last = done['stages'][-1]
            self.assertEqual((last['generation'], len(last['placement'])), (2, 2))
            self.assertGreater(last['resumed_epoch'] * 1000 + last['resumed_step'], 0)
            self.assertEqual(harness.digests(done), want, f'side {side}')
            worker.kill()

    def test_the_full_precision_stage_is_shared_and_the_pairs_are_not(self):
        self.server()
        self.worker()
        alone = self.wait_state(self.submit(SMOKE), 'SUCCEEDED')
        pair = self.wait_state(self.submit(SMOKE, *GUIDED), 'SUCCEEDED')
        self.assertEqual(pair['stages'][0]['key'], alone['stages'][0]['key'])
        self.assertEqual(pair['stages'][0]['checkpoint_sha256'], alone['stages'][0]['checkpoint_sha256'])
        self.assertNotEqual(pair['stages'][1]['key'], alone['stages'][1]['key'])

    def test_a_recipe_with_an_unknown_hint_point_is_refused(self):
        result = self.cli('plan', SMOKE, '--set', 'guided.hint_points=[layer3]', check=2)
        self.assertIn('"layer3" is no hint point of convnet28; known: conv1, conv2, conv3, fc1, logits', result.stderr)
        plan = json.loads(self.cli('plan', SMOKE, '--set', 'guided={}', '--output', 'json').stdout)
        self.assertEqual(plan['stages'][-1]['guided']['teacher'], 'carry')


if __name__ == '__main__':
    unittest.main()
