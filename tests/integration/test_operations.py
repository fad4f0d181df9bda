"""What an operator does: pause and resume, retry, drain a worker, priorities."""
import unittest

import harness
from harness import SMOKE, wait_for

STEPPED = ('--set', 'checkpoint.every_steps=50')


class OperationsTest(harness.Case):

    def running(self, job, stage='W4A32'):
        return wait_for(lambda: [s for s in self.describe(job)['stages'] if s['name'] == stage and s['state'] == 'RUNNING' and s.get('progress', {}).get('step')], f'{stage} runs', 90, 0.05)[0]

    def test_a_paused_job_stops_at_a_checkpoint_and_resumes_bit_for_bit(self):
        self.server()
        self.worker()
        job = self.submit(SMOKE, '--set', 'quantized.epochs=4')
        self.running(job)
        self.assertIn('PAUSED', self.cli('pause', job).stdout)
        paused = wait_for(lambda: [found for found in [self.describe(job)] if found['stages'][1]['state'] == 'PENDING'], 'the trainers stop', 60)[0]
        self.assertEqual(paused['state'], 'PAUSED')
        self.assertEqual(paused['stages'][1]['attempts'], 0)
        self.assertFalse([c for c in harness.processes(self.folder).values() if 'bitstair-trainer' in c])
        refused = self.cli('pause', job, check=1)
        self.assertIn(f'jobs/{job} is PAUSED', refused.stderr)
        self.cli('resume', job)
        done = self.wait_state(job, 'SUCCEEDED')
        stage = done['stages'][1]
        self.assertEqual(stage['generation'], 2)
        self.assertGreater(stage['resumed_epoch'] * 1000 + stage['resumed_step'], 0, 'it stopped at a checkpoint between two steps')
        self.assertTrue(stage['bit_exact'])
        undisturbed = self.wait_state(self.submit(SMOKE, '--set', 'quantized.epochs=4', '--no-share'), 'SUCCEEDED')
        self.assertEqual(harness.digests(done), harness.digests(undisturbed))
        for command, words in (('resume', 'has ended'), ('pause', 'has ended'), ('retry', 'has ended: it is SUCCEEDED')):
            self.assertIn(words, self.cli(command, job, check=1).stderr)
        self.assertIn('there is no job', self.cli('retry', 'nobody-1234', check=2).stderr)

    def test_a_failed_job_is_retried_from_where_it_was(self):
        server = self.server()
        worker = self.worker(env={'BITSTAIR_TEST_CRASH': 'W4A4:0:2:*'})
        job = self.submit(SMOKE, '--set', 'max_attempts=1')
        failed = self.wait_state(job, 'FAILED')
        worker.kill()
        self.worker('w1')  # without the fault
        self.cli('retry', job)
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertEqual([s['generation'] for s in done['stages']], [1, 1, 2])
        self.assertEqual(done['stages'][1]['checkpoint_sha256'], failed['stages'][1]['checkpoint_sha256'])
        server.kill()
        self.server()
        self.assertEqual(self.describe(job)['state'], 'SUCCEEDED', 'also after a restart')

    def test_a_drained_worker_hands_its_stage_over_at_a_checkpoint(self):
        server = self.server()
        self.worker('one')
        job = self.submit(SMOKE, '--set', 'quantized.epochs=4')
        self.running(job)
        self.worker('two')
        self.assertIn('one: gets no new stages', self.cli('drain', 'one').stdout)
        moved = wait_for(lambda: [s for s in self.describe(job)['stages'] if s['name'] == 'W4A32' and s['generation'] == 2 and s['placement']], 'the stage moves', 60)[0]
        self.assertEqual({p['worker'] for p in moved['placement']}, {'two'})
        self.assertEqual(moved['attempts'], 1, 'no fault of the stage')
        self.assertIn('cordoned', self.cli('workers').stdout)
        self.assertIn('there is no worker workers/three', self.cli('drain', 'three', check=2).stderr)
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertGreater(done['stages'][1]['resumed_epoch'] * 1000 + done['stages'][1]['resumed_step'], 0)
        # The coordinator remembers.
        server.kill()
        self.server(listen=server.ready['address'])
        wait_for(lambda: 'cordoned' in self.cli('workers').stdout, 'the workers are back', 30)
        self.assertIn('one: gets stages', self.cli('uncordon', 'one').stdout)
        self.assertNotIn('cordoned', self.cli('workers').stdout)


if __name__ == '__main__':
    unittest.main()
