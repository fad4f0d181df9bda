"""The Debian package in a clean Debian: it installs with what it depends on, trains as an ordinary user, and leaves nothing behind."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import debian_root

BUILD = pathlib.Path(os.environ['BITSTAIR_BUILD'])
DATASETS = 'usr/share/datasets'


class DebTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        debian_root.require('mmdebstrap', 'dpkg-shlibdeps', 'chroot')

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='bitstair-deb-'))
        self.addCleanup(shutil.rmtree, self.folder)
        self.root = self.folder / 'root'
        self.root.mkdir()

    def mount(self, *arguments, at):
        at.mkdir(parents=True, exist_ok=True)
        subprocess.run(['mount', *arguments, str(at)], check=True)
        self.addCleanup(subprocess.run, ['umount', str(at)], check=True)  # before the folder goes

    def inside(self, *command):
        done = subprocess.run(['chroot', str(self.root), *command], env={'PATH': '/usr/sbin:/usr/bin:/sbin:/bin', 'DEBIAN_FRONTEND': 'noninteractive', 'HOME': '/root'},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        self.assertEqual(done.returncode, 0, f'{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}')
        return done.stdout

    def test_installs_trains_and_goes(self):
        subprocess.run(['cpack', '--config', str(BUILD / 'CPackConfig.cmake'), '-G', 'DEB', '-B', str(self.folder / 'package')], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        package, = self.folder.joinpath('package').glob('*.deb')
        print(f'{package.name}: {package.stat().st_size / 1e6:.0f} MB', flush=True)

        subprocess.run(['tar', '-xf', str(debian_root.debian_tar()), '-C', str(self.root)], check=True)
        package.rename(self.root / package.name)
        for file in ('etc/resolv.conf', 'etc/hosts'):
            shutil.copy(pathlib.Path('/') / file, self.root / file)
        self.mount('-t', 'proc', 'proc', at=self.root / 'proc')
        self.mount('--bind', f'/{DATASETS}', at=self.root / DATASETS)
        self.inside('apt-get', 'update')
        self.inside('apt-get', 'install', '-y', '--no-install-recommends', f'/{package.name}')
        self.inside('useradd', '--create-home', 'somebody')
        self.assertIn('bitstair 0.', self.inside('su', 'somebody', '-c', 'bitstair --version'))
        for path in ('usr/share/man/man1/bitstair-top.1', 'usr/share/bash-completion/completions/bitstair', 'usr/share/zsh/vendor-completions/_bitstair'):
            self.assertTrue(self.root.joinpath(path).is_file(), path)
        self.assertIn('describe', self.inside('su', 'somebody', '-c', 'bash -c "source /usr/share/bash-completion/completions/bitstair && complete -p bitstair && bitstair __complete desc"'))
        self.assertRegex(self.inside('su', 'somebody', '-c', 'cd && bitstair run /usr/share/bitstair/recipes/smoke.yaml'), r'(?m)^W4A4 ')

        self.inside('apt-get', 'purge', '-y', 'bitstair')
        left = [path for path in self.root.joinpath('usr').rglob('*bitstair*')]
        self.assertEqual(left, [])


if __name__ == '__main__':
    unittest.main()
