"""The installed tree: moved to another folder it trains, with nothing of ./dev setup at hand."""
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

BUILD = pathlib.Path(os.environ['BITSTAIR_BUILD'])


class InstallTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix='bitstair-install-')
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        first = self.folder / 'first'
        subprocess.run(['cmake', '--install', str(BUILD), '--strip', '--prefix', str(first)], check=True, stdout=subprocess.DEVNULL)
        self.tree = self.folder / 'second'
        first.rename(self.tree)
        # A HOME without the downloads of ./dev setup, and none of our variables.
        (self.folder / 'home').mkdir()
        self.env = {'PATH': '/usr/bin:/bin', 'HOME': str(self.folder / 'home'), 'NO_COLOR': '1'}

    def run_program(self, program, *arguments, **options):
        done = subprocess.run([str(self.tree / 'bin' / program), *map(str, arguments)], env=self.env, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300, **options)
        self.assertEqual(done.returncode, 0, f'{program} {arguments}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}')
        return done.stdout

    def test_a_moved_tree_is_whole(self):
        for program in sorted(self.tree.joinpath('bin').iterdir()):
            # No library comes from where it was built.
            for line in subprocess.run(['ldd', str(program)], env=self.env, capture_output=True, text=True, check=True).stdout.splitlines():
                found = re.match(r'\s*(\S+) => (\S+|not found)', line)
                if found:
                    self.assertTrue(found[2].startswith(('/lib/', '/usr/lib/', str(self.tree))), f'{program.name}: {line.strip()}')
            version = self.run_program(program.name, '--version').splitlines()
            self.assertRegex(version[0], rf'^{program.name} \d+\.\d+\.\d+$')
            self.assertRegex(version[1], r'^commit    ([0-9a-f]{7,}(-dirty)?|unknown)$')
            self.assertRegex(version[2], r'^LibTorch  \d+\.\d+')
            self.assertRegex(version[3], r'^CUDA      (no CUDA|\d+\.\d+)$')
            self.assertRegex(version[4], r'^features  \S')
        for path in ('share/bitstair/recipes/smoke.yaml', 'share/bitstair/proto/bitstair/v1/jobs.proto', 'share/doc/bitstair/README.md', 'lib/systemd/system/bitstair-worker.service', 'share/man/man1/bitstair.1',
                     'share/man/man1/bitstair-submit.1', 'share/man/man8/bitstair-server.8', 'share/bash-completion/completions/bitstair', 'share/zsh/vendor-completions/_bitstair',
                     'share/doc/bitstair/docs/schema/job.json'):
            self.assertTrue(self.tree.joinpath(path).is_file(), path)

        out = self.run_program('bitstair', 'run', self.tree / 'share/bitstair/recipes/smoke.yaml')
        self.assertRegex(out, r'(?m)^W4A4 ')


if __name__ == '__main__':
    unittest.main()
