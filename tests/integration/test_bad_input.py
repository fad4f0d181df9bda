"""Each bad input names what is wrong and where, with the right exit status, and harms nothing."""
import gzip
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import unittest

import harness
from harness import BIN, FASHION_MNIST, SMOKE, wait_for


class BadInputTest(harness.Case):

    def refused(self, *arguments, words=(), status=2):
        done = self.cli(*arguments, check=status)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.stdout, '')
        return done

    def recipe(self, text, name='bad.yaml'):
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_recipes(self):
        good = SMOKE.read_text()
        cases = [
            (good.replace('widths:', 'widht:'), ['bad.yaml:', 'widht', 'widths']),
            (good.replace('ranks: 2', 'ranks: two'), ['bad.yaml:', 'ranks']),
            (good.replace('[32, 4]', '[32, 9]'), ['widths[1]', '9']),
            (good.replace('[32, 4]', '[4, 8]'), ['widths[1]']),
            (good.replace('epochs: 2, learning_rate: 0.05', 'epochs: 0, learning_rate: 0.05'), ['pretrain.epochs']),
            (good.replace('epochs: 2, learning_rate: 0.05', 'epochs: -3, learning_rate: 0.05'), ['pretrain.epochs']),
            (good.replace('learning_rate: 0.05', 'learning_rate: 1e9'), ['pretrain.learning_rate']),
            (good.replace('batch_size: 128', 'batch_size: 99999999999'), ['batch_size']),
            ('', ['empty']),
            (bytes(range(256)) * 10, ['bad.yaml']),
            ('a: ' * 1 + '[' * 2000, ['bad.yaml']),
            ('{a: ' * 100 + '1' + '}' * 100, ['bad.yaml']),
        ]
        for text, words in cases:
            path = self.recipe(text)
            for command in ('validate', 'plan', 'run'):
                with self.subTest(command=command, text=text[:60]):
                    self.refused(command, path, words=words)
        self.refused('validate', self.folder / 'absent.yaml', words=['absent.yaml'])

    def test_run_with_more_ranks_than_slots(self):
        self.refused('run', SMOKE, '--set', 'ranks=64', '--set', 'batch_size=128', words=['64', 'slots'])
        self.assert_nothing_runs()

    def data_fault(self, edit, words):
        data = self.folder / 'data'
        shutil.rmtree(data, ignore_errors=True)
        shutil.copytree(FASHION_MNIST, data)
        edit(data)
        done = self.cli('run', SMOKE, '--set', f'data.path={data}', '--state-dir', self.folder / 'data-state', check=1)
        for word in words:
            self.assertIn(word, done.stderr)

    def test_faulty_data_is_a_job_error_from_the_worker_that_found_it(self):
        def truncate(data):
            path = data / 'train-images-idx3-ubyte.gz'
            path.write_bytes(path.read_bytes()[:1_000_000])

        def magic(data):
            path = data / 't10k-labels-idx1-ubyte.gz'
            path.write_bytes(gzip.compress(b'\0\0\x0c\x01' + gzip.decompress(path.read_bytes())[4:]))

        def label(data):
            path = data / 'train-labels-idx1-ubyte.gz'
            raw = bytearray(gzip.decompress(path.read_bytes()))
            raw[8 + 17] = 11
            path.write_bytes(gzip.compress(bytes(raw)))

        self.data_fault(truncate, ['train-images-idx3-ubyte.gz', 'byte'])
        self.data_fault(magic, ['t10k-labels-idx1-ubyte.gz', 'magic'])
        self.data_fault(label, ['train-labels-idx1-ubyte.gz', 'byte 25', '11'])
        self.data_fault(lambda data: os.remove(data / 'train-labels-idx1-ubyte.gz'), ['train-labels-idx1-ubyte'])

    def test_faulty_image_folders_are_job_errors_that_name_the_folder(self):
        def pictures(data, *files):
            for path in data.iterdir():
                path.unlink()
            for file in files:
                path = data / file
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.name != 'nothing':
                    path.write_bytes(b'')

        data = self.folder / 'data'
        self.data_fault(lambda data: pictures(data, 'train/1.JPEG', 'val/a/1.JPEG'), [f'{data}/train/1.JPEG is not a class folder'])
        self.data_fault(lambda data: pictures(data, 'train/a/1.JPEG', 'train/b/nothing', 'val/a/1.JPEG'), [f'class folder {data}/train/b has no images'])
        self.data_fault(lambda data: pictures(data, 'train/a/1.JPEG', 'train/b/1.JPEG', 'val/a/1.JPEG'), [str(data), 'classes (2 and 1)'])
        self.data_fault(lambda data: pictures(data, 'train/a/1.JPEG'), [f'{data}/val'])

    def test_data_paths_outside_the_allowed_roots(self):
        self.server()
        self.worker('w1', '--data-root', str(self.folder))
        os.symlink(FASHION_MNIST, self.folder / 'link')
        for path in ('/usr/share/datasets/fashion-mnist', self.folder / '..'):
            job = self.submit(SMOKE, '--set', f'data.path={path}')
            reason = wait_for(lambda: (lambda text: text if 'no worker offers' in text else '')(self.describe(job)['reason']), 'a reason', 20)
            self.assertIn('outside the allowed roots', reason)
        job = self.submit(SMOKE, '--set', f'data.path={self.folder / "link"}')
        self.assertIn('leads out of the allowed roots', self.wait_state(job, 'FAILED', seconds=20)['reason'])

    def start_server(self, *arguments):
        done = subprocess.run([str(BIN / 'bitstair-server'), '--metrics-listen', '127.0.0.1:0', *map(str, arguments)], env=self.env, capture_output=True, text=True, timeout=30)
        self.assertEqual(done.returncode, 2, done.stderr)
        return done.stderr

    def test_server_refuses_to_start_and_harms_nothing(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            port = taken.getsockname()[1]
            self.assertIn(str(port), self.start_server('--listen', f'127.0.0.1:{port}', '--state-dir', self.folder / 'a'))
        file = self.folder / 'file'
        file.write_text('x')
        self.assertIn(str(file), self.start_server('--listen', '127.0.0.1:0', '--state-dir', file))
        self.assertIn('insecure', self.start_server('--listen', '0.0.0.0:0', '--state-dir', self.folder / 'b'))
        server = self.server()
        self.assertIn('in use', self.start_server('--listen', '127.0.0.1:0', '--state-dir', self.folder / 'server'))
        server.kill(signal.SIGTERM)
        store = next(path for path in (self.folder / 'server').iterdir() if path.read_bytes()[:6] == b'SQLite')
        with sqlite3.connect(store) as connection:
            connection.execute('pragma user_version = 999')
        connection.close()
        before = store.read_bytes()
        self.assertIn('newer', self.start_server('--listen', '127.0.0.1:0', '--state-dir', self.folder / 'server'))
        self.assertEqual(store.read_bytes(), before)

    def test_a_checkpoint_that_rots_is_named_and_nothing_crashes(self):
        self.server()
        worker = self.worker()
        job = self.submit(SMOKE, '--set', 'pretrain.epochs=1', '--set', 'quantized.epochs=40')
        wait_for(lambda: any(s['name'] == 'W4A32' and s['state'] == 'RUNNING' for s in self.describe(job)['stages']), 'W4A32 runs')
        done = self.describe(job)
        digest = done['stages'][0]['checkpoint_sha256']
        self.cli('cancel', job)
        self.wait_state(job, 'CANCELLED')
        for path in self.folder.rglob(digest + '*'):
            if path.suffix != '.json':
                os.chmod(path, 0o600)
                path.write_bytes(path.read_bytes()[:-100])
        # The next job does not take the stage over, whose checkpoint is not whole: it is trained again.
        again = self.submit(SMOKE, '--set', 'pretrain.epochs=1')
        self.wait_state(again, 'SUCCEEDED')
        self.assertIsNone(worker.process.poll())


if __name__ == '__main__':
    unittest.main()
