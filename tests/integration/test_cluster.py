"""One coordinator, two workers with folders of their own, jobs from outside."""
import json
import re
import subprocess
import unittest

import numpy
from safetensors.numpy import load_file

import harness
from harness import BIN, SMOKE, wait_for


def sent_over_tcp(pid):
    """Bytes that a process has sent over the TCP connections it has open now, as the kernel counts them."""
    lines = subprocess.run(['ss', '-Htinp'], capture_output=True, text=True, check=True).stdout.splitlines()
    return sum(int(number) for line, detail in zip(lines, lines[1:]) if f'pid={pid},' in line for number in re.findall(r'bytes_sent:(\d+)', detail))


class ClusterTest(harness.Case):

    def test_a_gang_spans_two_workers_and_the_codes_are_few(self):
        self.server()
        self.worker('w1', slots=1, cores=[0])
        self.worker('w2', slots=1, cores=[1])
        job = self.submit(SMOKE, '--set', 'checkpoint.every_epoch=true')
        running = wait_for(lambda: [s for s in self.describe(job)['stages'] if s['state'] == 'RUNNING' and len([p for p in s['placement'] if p.get('pid')]) == 2], 'both ranks run', 60, 0.1)[0]
        self.assertEqual({p['worker'] for p in running['placement']}, {'w1', 'w2'})
        self.assertEqual(len({p['pid'] for p in running['placement']}), 2, 'distinct processes')
        # What a fake could not fake: the kernel counts the bytes that each rank's process sent through Gloo's sockets ...
        for placed in running['placement']:
            wait_for(lambda: sent_over_tcp(placed['pid']) > 100_000, f'rank {placed["rank"]} sends its gradients', 60, 0.02)
        done = self.wait_state(job, 'SUCCEEDED')

        # ... and all ranks have equal parameters.
        for stage in done['stages']:
            digests = {}
            for rank in (0, 1):
                log = self.cli('logs', job, '--stage', stage['name'], '--rank', rank).stdout
                ends = re.findall(r'all-reduce bytes (\d+), parameters sha256 ([0-9a-f]{64})', log)
                self.assertEqual(len(ends), stage['epochs'], f'rank {rank} of {stage["name"]}:\n{log}')
                self.assertGreater(int(ends[-1][0]), 100_000)
                digests[rank] = ends[-1][1]
            self.assertEqual(digests[0], digests[1], stage['name'])

        final = done['stages'][-1]
        path = next(self.folder.joinpath('server').rglob(final['checkpoint_sha256'] + '*'))
        tensors = load_file(path)
        quantized = [name for name in tensors if name.endswith('.weight') and '/' not in name and tensors[name].ndim in (2, 4)]
        self.assertGreaterEqual(len(quantized), 4)
        for name in quantized[1:-1]:
            t = numpy.tanh(tensors[name].astype(numpy.float64))
            codes = numpy.rint(15 * (t / (2 * abs(t).max()) + 0.5))
            self.assertLessEqual(len(numpy.unique(codes)), 16, name)
            self.assertGreater(len(numpy.unique(codes)), 4, name)

    def test_submit_waits_with_a_reason_and_runs_when_slots_come(self):
        self.server()
        job = self.submit()
        wait_for(lambda: self.describe(job)['reason'], 'a reason without workers')
        self.worker('w1', slots=1, cores=[0])
        reason = wait_for(lambda: next((s['reason'] for s in self.describe(job)['stages'] if s['state'] == 'PENDING' and 'slot' in s['reason']), ''), 'a pending stage tells its reason')
        self.assertIn('2 slots', reason)
        self.worker('w2', slots=1, cores=[1])
        self.wait_state(job, 'SUCCEEDED')

    def test_watch_list_and_cancel(self):
        self.server()
        self.worker()
        job = self.submit(SMOKE, '--set', 'pretrain.epochs=500')
        watch = subprocess.Popen([str(BIN / 'bitstair'), 'watch', job], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.wait_state(job, 'RUNNING')
        listed = json.loads(self.cli('list', '--output', 'json').stdout)
        self.assertIn(job, json.dumps(listed))
        self.cli('cancel', job)
        self.wait_state(job, 'CANCELLED', seconds=30)
        output, error = watch.communicate(timeout=20)
        self.assertEqual(watch.returncode, 4, output + error)
        self.assertIn('FAILED_PRECONDITION', self.cli('cancel', job, check=1).stderr)
        wait_for(lambda: not any('bitstair-trainer' in c for c in harness.processes(self.folder).values()), 'trainers gone', 20)

    def test_the_answer_to_a_repeated_submit_is_the_first_answer(self):
        self.server()
        first = self.submit(SMOKE, '--request-id', 'abc')
        self.assertEqual(self.submit(SMOKE, '--request-id', 'abc'), first)
        self.assertIn('ALREADY_EXISTS', self.cli('submit', SMOKE, '--request-id', 'abc', '--set', 'seed=9', check=1).stderr)

    def test_health_workers_and_an_absent_coordinator(self):
        server = self.server()
        self.worker('w1', slots=2)
        self.cli('health')
        wait_for(lambda: 'fashion_mnist' in self.cli('workers', '--output', 'json').stdout, 'the worker offers its data set')
        server.kill()
        self.assertIn(server.ready['address'], self.cli('health', check=3).stderr)


if __name__ == '__main__':
    unittest.main()
