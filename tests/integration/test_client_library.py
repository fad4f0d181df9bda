"""The C++ client library as people have it: installed, moved to another folder, found by CMake, linked into the example and run against a real coordinator."""
import os
import re
import subprocess
import unittest

import harness
from harness import BIN, ROOT


class ClientLibraryTest(harness.Case):

    def run_command(self, *command):
        done = subprocess.run([*map(str, command)], cwd=self.folder, env=self.clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, f'{command}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}')
        return done.stdout

    def test_the_example_builds_against_a_moved_tree_and_runs(self):
        # None of our variables, and a HOME without the downloads of ./dev setup.
        self.clean = {'PATH': os.environ['PATH'], 'HOME': str(self.folder)}
        first, tree = self.folder / 'first', self.folder / 'second'
        self.run_command('cmake', '--install', BIN.parent, '--strip', '--component', 'client_library', '--prefix', first)
        first.rename(tree)
        for path in filter(lambda path: path.is_file(), tree.rglob('*')):
            for folder in (first, BIN.parent, ROOT):
                self.assertNotIn(f'{folder}/'.encode(), path.read_bytes(), path)

        # The example as it is installed, without the sources around it.
        example = tree / 'share' / 'bitstair' / 'example'
        self.run_command('cmake', '-S', example, '-B', example / 'build', f'-DCMAKE_PREFIX_PATH={tree}')
        self.run_command('cmake', '--build', example / 'build')

        server = self.server()
        self.worker()
        program = example / 'build' / 'submit_and_watch'
        out = self.run_command(program, server.ready['address'])
        job = re.match(r'job jobs/(example-\S+)\n', out)[1]
        self.assertIn('state JOB_STATE_SUCCEEDED', out)
        told = {name: digest for name, digest in re.findall(r'^stage (\S+) top-1 \S+ % ([0-9a-f]{64})$', out, re.M)}
        self.assertEqual(told, harness.digests(self.describe(job)))
        self.assertEqual(list(told), ['W32A32', 'W4A4'])

        refused = subprocess.run([str(program), server.ready['address'], '9'], env=self.clean, capture_output=True, text=True, timeout=60)
        self.assertEqual(refused.returncode, 1, refused.stdout)
        self.assertRegex(refused.stderr, r'(?m)^  spec\.widths\[1\]: .*9')


if __name__ == '__main__':
    unittest.main()
