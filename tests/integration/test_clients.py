"""Clients that people write: docs/clients.md's Python program, word for word, with nothing of ours at hand but the coordinator."""
import json
import re
import subprocess
import sys
import unittest

import harness
from harness import ROOT

SPEC = {'name': 'mine', 'network': 'convnet28', 'data': {'name': 'fashion_mnist', 'trainLimit': 1024, 'testLimit': 200}, 'widths': [32, 4], 'pretrain': {'epochs': 1}, 'quantized': {'epochs': 1}}


def fences(page, language):
    return re.findall(rf'^```{language}\n(.*?)^```$', ROOT.joinpath('docs', page).read_text(), re.M | re.S)


class ClientsTest(harness.Case):

    def run_python(self, spec):
        program, = fences('clients.md', 'python')
        self.assertNotIn('_pb2', program)
        path = self.folder / 'submit_and_watch.py'
        path.write_text(program)
        return subprocess.run([sys.executable, str(path), self.env['BITSTAIR_COORDINATOR'], json.dumps(spec)], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=180)

    def test_python_submits_and_watches_by_reflection_alone(self):
        self.server()
        self.worker()
        done = self.run_python(SPEC)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        lines = done.stdout.splitlines()
        self.assertRegex(lines[0], r'^job jobs/mine-')
        described = self.describe(lines[0].split('/')[-1])
        self.assertEqual(described['state'], 'SUCCEEDED')
        # The program tells the same as the command line.
        told = {words[1]: words[-1] for words in map(str.split, lines) if words[0] == 'stage'}
        self.assertEqual(told, harness.digests(described))
        self.assertEqual(list(told), ['W32A32', 'W4A4'])
        succeeded = [line.split()[2] for line in lines if line.startswith('event StageSucceeded')]
        self.assertEqual(succeeded, ['W32A32', 'W4A4'], done.stdout)

    def test_python_is_told_which_field_is_wrong(self):
        self.server()
        done = self.run_python({**SPEC, 'widths': [32, 9]})
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r'(?m)^INVALID_ARGUMENT: ')
        self.assertRegex(done.stderr, r'(?m)^  spec\.widths\[1\]: .*9')


if __name__ == '__main__':
    unittest.main()
