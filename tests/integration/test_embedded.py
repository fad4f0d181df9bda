"""`bitstair run` as a person uses it: one command, its output, Ctrl-C, a second start, SIGKILL."""
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
import unittest

import harness
from harness import BIN, SMOKE, wait_for


class EmbeddedTest(harness.Case):

    def start_run(self, *arguments, **options):
        return subprocess.Popen([str(BIN / 'bitstair'), 'run', str(SMOKE), *arguments], env=self.env, stdin=subprocess.DEVNULL, text=True, **options)

    def test_json_is_one_object_and_nothing_runs_afterwards(self):
        done = self.cli('run', SMOKE, '--output', 'json')
        result = json.loads(done.stdout)
        self.assertEqual(result['state'], 'SUCCEEDED')
        self.assertEqual([stage['name'] for stage in result['stages']], ['W32A32', 'W4A32', 'W4A4'])
        for stage, bits in zip(result['stages'], [(32, 32), (4, 32), (4, 4)]):
            self.assertEqual((stage['weight_bits'], stage['activation_bits']), bits)
            self.assertRegex(stage['checkpoint_sha256'], '^[0-9a-f]{64}$')
            self.assertGreater(stage['seconds'], 0)
            self.assertGreater(stage['top1'], 60.0)
        self.assertNotIn('\x1b', done.stderr, 'no control characters off a terminal')
        self.assert_nothing_runs()
        # The same recipe again is a new job that takes over what there is; trained anew it has the same bits.
        again = json.loads(self.cli('run', SMOKE, '--output', 'json').stdout)
        self.assertEqual([stage['sharing'] for stage in again['stages']], ['reused'] * 3)
        self.assertEqual(harness.digests(again), harness.digests(result))
        anew = json.loads(self.cli('run', SMOKE, '--no-share', '--output', 'json').stdout)
        self.assertEqual([stage['sharing'] for stage in anew['stages']], ['none'] * 3)
        self.assertEqual(harness.digests(anew), harness.digests(result))

    def test_interrupt_checkpoints_and_the_same_command_goes_on(self):
        undisturbed = json.loads(self.cli('run', SMOKE, '--output', 'json', '--state-dir', self.folder / 'other').stdout)
        run = self.start_run('--set', 'checkpoint.every_steps=1', stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        trainers = wait_for(lambda: [p for p, c in harness.processes(self.folder).items() if 'bitstair-trainer' in c], 'trainers run')
        self.assertEqual(len(set(trainers)), len(trainers))
        time.sleep(1.5)  # into the training; the assertions below hold at any moment
        run.send_signal(signal.SIGINT)
        _, error = run.communicate(timeout=40)
        self.assertEqual(run.returncode, 130, error)
        self.assertIn('goes on from there', error)
        self.assert_nothing_runs()
        done = self.cli('run', SMOKE, '--set', 'checkpoint.every_steps=1', '--output', 'json')
        self.assertEqual(harness.digests(json.loads(done.stdout)), harness.digests(undisturbed))

    def test_killing_the_client_leaves_nothing_running_and_nothing_broken(self):
        run = self.start_run(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: any('bitstair-trainer' in c for c in harness.processes(self.folder).values()), 'trainers run')
        run.kill()
        run.wait(10)
        self.assert_nothing_runs(35)
        result = json.loads(self.cli('run', SMOKE, '--output', 'json').stdout)
        self.assertEqual(result['state'], 'SUCCEEDED')

    def test_a_second_interrupt_kills(self):
        run = self.start_run(stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        wait_for(lambda: any('bitstair-trainer' in c for c in harness.processes(self.folder).values()), 'trainers run')
        run.send_signal(signal.SIGINT)
        wait_for(lambda: run.poll() is not None or 'heckpoint' in (os.read(run.stderr.fileno(), 65536).decode() if select.select([run.stderr], [], [], 0.1)[0] else ''), 'says what it does')
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=15)
        self.assertEqual(run.returncode, 130)
        self.assert_nothing_runs(10)

    def test_a_second_run_shares_the_coordinator(self):
        first = self.start_run('--output', 'json', stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        wait_for(lambda: any('bitstair-trainer' in c for c in harness.processes(self.folder).values()), 'trainers run')
        second = json.loads(self.cli('run', SMOKE, '--set', 'name=second', '--output', 'json').stdout)
        self.assertEqual(json.loads(first.communicate(timeout=120)[0])['state'], 'SUCCEEDED')
        self.assertEqual(second['state'], 'SUCCEEDED')
        self.assert_nothing_runs()

    def test_a_terminal_shows_one_live_line_and_a_table(self):
        main, side = pty.openpty()
        run = subprocess.Popen([str(BIN / 'bitstair'), 'run', str(SMOKE)], env={**self.env, 'TERM': 'xterm', 'COLUMNS': '120'}, stdin=side, stdout=side, stderr=side)
        os.close(side)
        seen = b''
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:
                break
            if not part:
                break
            seen += part
        self.assertEqual(run.wait(20), 0)
        text = seen.decode()
        self.assertIn('\r', text)
        for word in ('W4A4', 'epoch', 'loss', 'top-1', 'images/s', 'left'):
            self.assertIn(word, text)
        table = text[text.rindex('stage'):]
        self.assertEqual(len(re.findall(r'^\W*W\d+A\d+', table, re.M)), 3, table)


if __name__ == '__main__':
    unittest.main()
