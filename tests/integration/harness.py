"""Starts the real programs for the integration tests and looks at them from outside: processes, files, HTTP, the command line."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.request

BIN = pathlib.Path(os.environ['BITSTAIR_BIN'])
ROOT = pathlib.Path(__file__).resolve().parents[2]
SMOKE = ROOT / 'recipes' / 'smoke.yaml'
FASHION_MNIST = pathlib.Path('/usr/share/datasets/fashion-mnist')


def wait_for(condition, what, seconds=60.0, every=0.05):
    """Polls until condition() is truthy and returns its value; fails naming `what` after the deadline."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'not within {seconds:g} s: {what}')
        time.sleep(every)


def processes(state_folder):
    """{pid: command line} of every live process whose environment names this test's folder."""
    found = {}
    for entry in pathlib.Path('/proc').iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.joinpath('stat').read_text().rsplit(')', 1)[1].split()[0] == 'Z':
                continue
            if f'BITSTAIR_TEST_FOLDER={state_folder}\0'.encode() in entry.joinpath('environ').read_bytes():
                found[int(entry.name)] = entry.joinpath('cmdline').read_bytes().replace(b'\0', b' ').decode().strip()
        except (OSError, IndexError):
            continue
    return {pid: command for pid, command in found.items() if 'bitstair' in command.split(' ')[0]}


class Daemon:
    """A server or a worker with its ready line."""

    def __init__(self, program, arguments, env, log, cores=None):
        read_end, write_end = os.pipe()
        self.log = log
        with open(log, 'ab') as log_file:
            self.process = subprocess.Popen([str(BIN / program), *arguments, '--ready-fd', str(write_end)], env=env, stdin=subprocess.DEVNULL,
                                            stdout=log_file, stderr=log_file, pass_fds=[write_end], start_new_session=True,
                                            preexec_fn=(lambda: os.sched_setaffinity(0, cores)) if cores else None)
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            line = pipe.readline()
        if not line:
            raise AssertionError(f'{program} did not become ready (exit {self.process.wait(10)}):\n{pathlib.Path(log).read_text()[-4000:]}')
        self.ready = json.loads(line)

    @property
    def pid(self):
        return self.process.pid

    def kill(self, number=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(40)


class Case(unittest.TestCase):
    """A folder, an environment and everything that was started in it; nothing of it may live on."""

    maxDiff = None

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='bitstair-test-'))
        self.addCleanup(self.remove_folder)
        self.env = {**os.environ, 'BITSTAIR_TEST_FOLDER': str(self.folder), 'XDG_STATE_HOME': str(self.folder / 'state'), 'BITSTAIR_CONFIG': str(self.folder / 'config.yaml'), 'NO_COLOR': '1'}
        self.daemons = []

    def remove_folder(self):
        for pid in processes(self.folder):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for daemon in self.daemons:
            daemon.process.wait(20)
        failed = any(error for _, error in getattr(self._outcome, 'errors', [])) or bool(self._outcome.result.failures or self._outcome.result.errors)
        if failed:
            for log in sorted(self.folder.rglob('*.log')):
                print(f'--- {log}\n{log.read_text(errors="replace")[-3000:]}')
        subprocess.run(['rm', '-rf', str(self.folder)], check=True)

    def server(self, *arguments, name='server', listen='127.0.0.1:0'):
        daemon = Daemon('bitstair-server', ['--listen', listen, '--metrics-listen', '127.0.0.1:0', '--state-dir', str(self.folder / name), *arguments],
                        self.env, self.folder / f'{name}.log')
        self.daemons.append(daemon)
        self.env['BITSTAIR_COORDINATOR'] = daemon.ready['address']
        return daemon

    def worker(self, name='w1', *arguments, slots=2, env=None, cores=None):
        """slots: CPU slots; None: what the machine has."""
        offer = [] if slots is None else ['--slots', str(slots)]
        daemon = Daemon('bitstair-worker', ['--coordinator', self.env['BITSTAIR_COORDINATOR'], '--state-dir', str(self.folder / name), '--name', name,
                                            *offer, *arguments], {**self.env, **(env or {})}, self.folder / f'{name}.log', cores)
        self.daemons.append(daemon)
        return daemon

    def cli(self, *arguments, check=0, timeout=120):
        """Runs the command line; returns the finished process. check: the exit status it must have (None: any)."""
        done = subprocess.run([str(BIN / 'bitstair'), *map(str, arguments)], env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if check is not None:
            self.assertEqual(done.returncode, check, f'bitstair {" ".join(map(str, arguments))}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}')
        return done

    def submit(self, recipe=SMOKE, *arguments):
        return self.cli('submit', recipe, *arguments).stdout.strip().split()[-1]

    def describe(self, job):
        return json.loads(self.cli('describe', job, '--output', 'json').stdout)

    def wait_state(self, job, *states, seconds=150):
        def look():
            value = self.describe(job)
            if value['state'] in states:
                return value
            self.assertNotIn(value['state'], {'FAILED', 'CANCELLED', 'SUCCEEDED'} - set(states), json.dumps(value)[-3000:])
            return None
        return wait_for(look, f'{job} is {" or ".join(states)}', seconds, 0.2)

    def metrics(self, daemon):
        with urllib.request.urlopen(f'http://{daemon.ready["metrics_address"]}/metrics', timeout=10) as answer:
            return answer.read().decode()

    def assert_nothing_runs(self, seconds=25):
        wait_for(lambda: not processes(self.folder), f'all processes gone; left: {processes(self.folder)}', seconds)


def digests(job):
    """{stage: checkpoint digest} of a described job."""
    return {stage['name']: stage['checkpoint_sha256'] for stage in job['stages']}
