"""Things are killed; the result has the same bits."""
import os
import signal
import unittest

import harness
from harness import SMOKE, wait_for

STEPPED = ('--set', 'checkpoint.every_steps=3')


class RecoveryTest(harness.Case):

    def undisturbed(self):
        """Digests of the job without trouble, from a coordinator of its own."""
        self.server(name='calm')
        self.worker('calm-worker')
        job = self.submit()
        done = self.wait_state(job, 'SUCCEEDED')
        for daemon in self.daemons:
            daemon.kill()
        return harness.digests(done)

    def test_a_trainer_killed_at_a_step_resumes_bit_for_bit(self):
        want = self.undisturbed()
        self.server()
        self.worker(env={'BITSTAIR_TEST_CRASH': 'W4A4:1:10:1'})
        job = self.submit(SMOKE, *STEPPED)
        done = self.wait_state(job, 'SUCCEEDED')
        stage = done['stages'][-1]
        self.assertEqual(stage['generation'], 2)
        self.assertGreater(stage['resumed_epoch'] * 1000 + stage['resumed_step'], 0, 'the second generation began at a step above zero')
        self.assertEqual(harness.digests(done), want)
        self.assertIn('AttemptFailed', self.cli('describe', job).stdout + self.cli('describe', job, '--output', 'json').stdout)

    def test_a_coordinator_killed_mid_job_goes_on_bit_for_bit(self):
        want = self.undisturbed()
        first = self.server('--lease-seconds', '2', '--grace-seconds', '6')
        address = first.ready['address']
        self.worker()
        job = self.submit(SMOKE, *STEPPED)
        wait_for(lambda: any(s['state'] == 'RUNNING' for s in self.describe(job)['stages']), 'a stage runs')
        first.kill()
        self.daemons.append(harness.Daemon('bitstair-server', ['--listen', address, '--metrics-listen', '127.0.0.1:0', '--state-dir', str(self.folder / 'server'),
                                                               '--lease-seconds', '2', '--grace-seconds', '6'], self.env, self.folder / 'server2.log'))
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertEqual(harness.digests(done), want)

    def test_everything_killed_goes_on_from_its_newest_checkpoint(self):
        want = self.undisturbed()
        server = self.server()
        worker = self.worker()
        job = self.submit(SMOKE, *STEPPED)
        wait_for(lambda: any(s['name'] == 'W4A4' and s['state'] == 'RUNNING' and s['checkpoint_sha256'] for s in self.describe(job)['stages']), 'the last stage has a checkpoint')
        worker.kill()
        server.kill()
        wait_for(lambda: not harness.processes(self.folder), 'trainers leave with their worker', 5)
        self.server('--lease-seconds', '2', '--grace-seconds', '3')
        self.worker('w1')
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertGreater(done['stages'][-1]['resumed_epoch'] * 1000 + done['stages'][-1]['resumed_step'], 0)
        self.assertEqual(harness.digests(done), want)

    def test_checkpoints_change_nothing(self):
        want = self.undisturbed()
        self.server()
        self.worker()
        for cadence in (('checkpoint.every_steps=1',), ('checkpoint.every_steps=7',), ('checkpoint.every_epoch=false',)):
            job = self.submit(SMOKE, '--no-share', *[part for setting in cadence for part in ('--set', setting)])
            self.assertEqual(harness.digests(self.wait_state(job, 'SUCCEEDED')), want, cadence)

    def test_three_failures_end_the_job_with_the_last_log_lines(self):
        self.server()
        self.worker(env={'BITSTAIR_TEST_CRASH': 'W32A32:0:2:*'})
        job = self.submit()
        done = self.wait_state(job, 'FAILED')
        self.assertEqual(done['stages'][0]['attempts'], 3)
        self.assertIn('W32A32', done['reason'])
        self.assertIn('SIGKILL', done['reason'].replace('signal 9', 'SIGKILL'))


if __name__ == '__main__':
    unittest.main()
