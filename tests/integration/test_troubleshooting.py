"""docs/guide/troubleshooting.md: every message in it is written by the programs, which are brought to it here."""
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import unittest

import harness
from harness import BIN, FASHION_MNIST, ROOT, SMOKE, wait_for

PAGE = ROOT / 'docs' / 'guide' / 'troubleshooting.md'
STAND_INS = r'\b(ADDRESS|FOLDER|FILE|JOB|WORKER|NAME|ID|N)\b'
# Literal in messages.
LITERAL = {'(--data NAME=PATH)'}


def messages():
    """{message of the page: a pattern for what the programs write}."""
    found = {}
    for fence in re.findall(r'^```text\n(.*?)^```$', PAGE.read_text(), re.M | re.S):
        for line in fence.splitlines():
            pattern = ''.join(re.escape(part) if part in LITERAL else re.sub(STAND_INS, r'\\S+?', re.escape(part)) for part in re.split(r'(\(--data NAME=PATH\))', line))
            found[line] = re.compile(pattern)
    return found


class TroubleshootingTest(harness.Case):

    def setUp(self):
        super().setUp()
        self.written = []

    def write(self, text):
        self.written.append(text)

    def refused(self, *arguments, status=2):
        self.write(self.cli(*arguments, check=status).stderr)

    def refused_program(self, program, *arguments, status=2):
        done = subprocess.run([str(BIN / program), *map(str, arguments)], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, status, done.stderr)
        self.write(done.stderr)

    def refused_server(self, *arguments, listen='127.0.0.1:0', metrics='127.0.0.1:0', status=2):
        self.refused_program('bitstair-server', '--listen', listen, '--metrics-listen', metrics, *arguments, status=status)

    def reason(self, job, words):
        """Waits until the job or one of its stages gives a reason with these words."""
        def look():
            value = self.describe(job)
            return next((reason for reason in [value['reason'], *(stage['reason'] for stage in value['stages'])] if words in reason), None)
        self.write(wait_for(look, f'{job} says "{words}"'))

    def recipe(self, old, new):
        path = self.folder / 'recipe.yaml'
        path.write_text(SMOKE.read_text().replace(old, new))
        return path

    def test_every_message_of_the_page_is_written(self):
        self.unreachable()
        self.programs_that_do_not_start()
        self.recipes()
        self.runs_without_data()
        self.jobs()
        self.weights()
        self.access()
        unseen = {}
        full = self.full_disks()
        text = '\n'.join(self.written)
        for message, pattern in messages().items():
            if not pattern.search(text) and (full or not re.search('disk is full|No space left', message)):
                unseen[message] = pattern.pattern
        self.assertEqual(unseen, {}, f'\nnot in what the programs wrote:\n{text[-12000:]}')

    def unreachable(self):
        # A port that is bound and does not listen: nobody else gets it, and connections are refused.
        with socket.socket() as nobody:
            nobody.bind(('127.0.0.1', 0))
            address = f'127.0.0.1:{nobody.getsockname()[1]}'
            self.refused('health', '--coordinator', address, status=3)
            self.env['BITSTAIR_COORDINATOR'] = address
            worker = self.worker('lonely')
            log = self.folder / 'lonely.log'
            wait_for(lambda: 'trying on' in log.read_text(), 'the worker says that it is alone')
            self.write(log.read_text())
            worker.kill(signal.SIGTERM)

    def programs_that_do_not_start(self):
        with socket.create_server(('127.0.0.1', 0)) as taken:
            address = f'127.0.0.1:{taken.getsockname()[1]}'
            self.refused_server('--state-dir', self.folder / 'other', listen=address)
            self.refused_server('--state-dir', self.folder / 'other', metrics=address)
        file = self.folder / 'file'
        file.write_text('')
        self.refused_server('--state-dir', file)
        server = self.server(name='short')
        self.refused_server('--state-dir', self.folder / 'short')
        server.kill(signal.SIGTERM)
        store = next(path for path in (self.folder / 'short').iterdir() if path.read_bytes()[:6] == b'SQLite')
        connection = sqlite3.connect(store)
        connection.execute('pragma user_version = 999')
        connection.commit()
        connection.close()
        self.refused_server('--state-dir', self.folder / 'short')
        self.refused_program('bitstair-worker', '--state-dir', self.folder / 'w', '--data', f'cifar100={self.folder}/absent')

    def recipes(self):
        self.refused('validate', self.recipe('widths:', 'widht:'))
        self.refused('validate', self.recipe('ranks: 2', 'ranks: two'))
        self.refused('validate', self.recipe('[32, 4]', '[32, 9]'))
        self.refused('validate', SMOKE, '--set', 'batch_size=127')
        self.refused('validate', self.folder / 'absent.yaml')
        self.refused('run', SMOKE, '--set', 'ranks=64')

    def runs_without_data(self):
        cifar = ROOT / 'recipes' / 'cifar100_resnet20_quick.yaml'
        self.refused('run', cifar)
        self.refused('run', cifar, '--set', f'data.path={self.folder}/absent')
        for name, files in (('empty', []), ('strange', ['notes.txt'])):
            data = self.folder / name
            data.mkdir()
            for file in files:
                data.joinpath(file).write_text('x')
            self.refused('run', cifar, '--set', f'data.path={data}', status=1)

    def jobs(self):
        self.server()
        two = self.submit(SMOKE)
        self.reason(two, 'none is connected')
        self.worker('w1', slots=1)
        self.refused_program('bitstair-worker', '--coordinator', self.env['BITSTAIR_COORDINATOR'], '--state-dir', self.folder / 'w1')
        self.reason(two, 'waits for 2 slots')
        self.reason(self.submit(SMOKE, '--set', 'labels={gpu: h100}', '--set', 'ranks=1'), 'has label')
        self.reason(self.submit(SMOKE, '--set', 'data.name=cifar100'), 'no worker offers')
        self.reason(self.submit(SMOKE, '--set', f'data.path={FASHION_MNIST}'), 'no worker offers')
        self.refused('describe', 'absent')
        self.cli('cancel', two, '--wait')
        self.refused('cancel', two, status=1)
        self.submit(SMOKE, '--request-id', 'mine', '--set', 'labels={gpu: h100}')  # nothing of these jobs ever runs
        self.refused('submit', SMOKE, '--request-id', 'mine', '--set', 'seed=9', status=1)

    def weights(self):
        done = self.cli('evaluate', '--weights', ROOT / 'docs/results/cifar100_resnet20/baseline_w2a2_seed1.safetensors', '--network', 'resnet20', '--data', 'fashion_mnist', check=None)
        self.assertNotEqual(done.returncode, 0)
        self.write(done.stderr)

    def access(self):
        others = self.env['BITSTAIR_COORDINATOR']
        self.server('--require-tokens', name='guarded')
        self.refused('list', status=1)
        admin = str(self.folder / 'guarded' / 'admin.token')
        files = {}
        for role, queue in (('viewer', ()), ('submitter', ('--queue', 'vision'))):
            files[role] = self.folder / f'{role}.token'
            files[role].write_text(self.cli('token', 'create', '--role', role, '--name', role, *queue, '--token-file', admin).stdout)
            self.refused('submit', SMOKE, '--token-file', files[role], status=1)
        self.cli('token', 'revoke', files['viewer'].read_text().split('_')[1], '--token-file', admin)
        self.refused('list', '--token-file', files['viewer'], status=1)
        self.refused('list', '--coordinator', '192.0.2.9:1')
        self.refused_program('bitstair-worker', '--coordinator', '127.0.0.1:1', '--tls', '--state-dir', self.folder / 'stranger')
        self.env['BITSTAIR_COORDINATOR'] = others

    def full_disks(self):
        """Programs on file systems of a few kilobytes; False where this user cannot mount any."""
        disk = self.folder / 'disk'
        disk.mkdir()
        if not shutil.which('unshare') or subprocess.run(['unshare', '-rm', 'mount', '-t', 'tmpfs', 'none', str(disk)], capture_output=True).returncode:
            return False
        small = ['unshare', '-rm', 'bash', '-c', 'mount -t tmpfs -o size=$0 none "$1" && exec "${@:2}"']
        # Once it ends by itself, and once it cannot begin.
        submit = 'while bitstair submit "$1" >/dev/null 2>&1; do :; done; wait $!; tail -n 1 server.log >&2; cat /dev/zero >disk/rest 2>/dev/null; bitstair-server "${@:2}"'
        start = 'mkfifo ready; bitstair-server --ready-fd 5 "${@:2}" 5>ready 2>server.log & read -r line <ready; export BITSTAIR_COORDINATOR=$(sed -E \'s/.*"address": *"([^"]*)".*/\\1/\' <<<"$line"); '
        env = {**self.env, 'PATH': f'{BIN}:{self.env["PATH"]}'}
        done = subprocess.run([*small, '120k', str(disk), 'bash', '-c', start + submit, 'bash', str(SMOKE), '--state-dir', str(disk), '--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0'],
                              cwd=self.folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        self.write(done.stderr)

        # A worker that has room for its logs and not for a checkpoint.
        job = self.submit(SMOKE, '--no-share', '--set', 'ranks=1', '--set', 'max_attempts=1', '--set', 'labels={disk: full}')
        worker = subprocess.Popen([*small, '300k', str(disk), str(BIN / 'bitstair-worker'), '--coordinator', self.env['BITSTAIR_COORDINATOR'], '--state-dir', str(disk), '--label', 'disk=full', '--slots', '1'],
                                  env=self.env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.write(self.wait_state(job, 'FAILED')['reason'])
        finally:
            worker.terminate()
            worker.wait(40)
        return True


if __name__ == '__main__':
    unittest.main()
