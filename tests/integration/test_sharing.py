"""Jobs that need the same training get it once."""
import json
import unittest

import harness
from harness import SMOKE, wait_for


class SharingTest(harness.Case):

    def test_two_jobs_train_their_common_stage_once_even_when_it_crashes_and_one_is_cancelled(self):
        self.server()
        self.worker(env={'BITSTAIR_TEST_CRASH': 'W32A32:0:5:1'})
        first = self.submit(SMOKE, '--set', 'checkpoint.every_steps=3')
        second = self.submit(SMOKE, '--set', 'widths=[32, 2]')  # the full-precision stage is the same
        third = self.submit(SMOKE, '--set', 'widths=[32, 2]')   # everything is
        planned = wait_for(lambda: [job for job in map(self.describe, (second, third)) if job['stages']][1:] and list(map(self.describe, (second, third))), 'plans')
        self.assertEqual([stage['sharing'] for stage in planned[0]['stages']], ['joined', 'none', 'none'])
        self.assertEqual([stage['sharing'] for stage in planned[1]['stages']], ['joined'] * 3)
        self.assertEqual(planned[1]['stages'][0]['shared_with'], f'jobs/{first}/stages/W32A32')
        self.assertEqual(planned[1]['stages'][2]['shared_with'], f'jobs/{second}/stages/W2A2')
        wait_for(lambda: self.describe(second)['stages'][0]['generation'] == 2, 'a second attempt after the crash, seen by the other job, too', 60)
        wait_for(lambda: any(stage['state'] == 'RUNNING' for stage in self.describe(second)['stages'][1:]), 'a stage of two bits runs', 90)
        self.cli('cancel', second)
        self.assertEqual(self.describe(second)['state'], 'CANCELLED', 'at once: its stage goes on for the other job')

        done = [self.wait_state(job, 'SUCCEEDED') for job in (first, third)]
        self.assertEqual(done[0]['stages'][0]['checkpoint_sha256'], done[1]['stages'][0]['checkpoint_sha256'])
        self.assertEqual([stage['attempts'] for stage in done[1]['stages']], [2, 1, 1])
        self.assertGreater(done[1]['slot_seconds_saved'], 0)
        text = self.cli('describe', third).stdout
        self.assertIn('3 of 3 stages', text)
        self.assertIn(f'{first}/W32A32', text)
        self.assertIn('AttemptFailed', text)
        self.assertTrue(self.cli('logs', third, '--stage', 'W2A2').stdout)
        self.assertEqual(self.describe(second)['stages'][2]['state'], 'CANCELLED')

        # What was done for jobs that have ended serves the next one; without sharing it is trained anew, with the same bits.
        again = self.wait_state(self.submit(SMOKE, '--set', 'widths=[32, 2]'), 'SUCCEEDED', seconds=10)
        self.assertEqual([stage['sharing'] for stage in again['stages']], ['reused'] * 3)
        alone = self.wait_state(self.submit(SMOKE, '--set', 'widths=[32, 2]', '--no-share'), 'SUCCEEDED')
        self.assertEqual([stage['sharing'] for stage in alone['stages']], ['none'] * 3)
        self.assertEqual(harness.digests(alone), harness.digests(again))
        self.assertNotEqual(alone['stages'][0]['key'], again['stages'][0]['key'])

    def test_a_cancelled_training_goes_on_for_a_later_job(self):
        self.server()
        self.worker()
        first = self.submit(SMOKE, '--set', 'checkpoint.every_steps=1')
        wait_for(lambda: self.describe(first)['stages'] and self.describe(first)['stages'][0]['checkpoint_sha256'], 'a checkpoint', 60)
        self.cli('cancel', first)
        self.wait_state(first, 'CANCELLED')
        second = self.wait_state(self.submit(), 'SUCCEEDED')
        stage = second['stages'][0]
        self.assertEqual(stage['shared_with'], f'jobs/{first}/stages/W32A32')
        self.assertGreater(stage['resumed_epoch'] * 1000 + stage['resumed_step'], 0, 'it goes on from the checkpoint')
        self.assertEqual(stage['generation'], 2)
        self.assertEqual(json.loads(self.cli('describe', first, '--output', 'json').stdout)['state'], 'CANCELLED')


if __name__ == '__main__':
    unittest.main()
