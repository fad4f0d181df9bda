"""The driver's side of the protocol: one child process that is measured."""
import json
import os
import shlex
import signal
import subprocess
import tempfile

from peers import protocol

STDERR_LINES = 15


class Failure(Exception):
    """A participant did not do its part; the text is for the user."""


class Unsupported(Exception):
    """A participant says that it lacks this mode."""


class Participant:
    """A process from its start to its end; as a context manager it leaves nothing behind."""

    def __init__(self, name, command, environment, folder=None):
        self.name, self.command = name, command
        self.stderr = tempfile.TemporaryFile()
        # A session of its own: Ctrl-C reaches the driver alone, and what the participant started (the workers of torch.compile) ends with it.
        try:
            self.process = subprocess.Popen(command, env=environment, cwd=folder, text=True, start_new_session=True,
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr)
        except OSError as error:
            raise Failure(f'{name}: cannot start {command[0]}: {error.strerror}') from None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            self.process.stdin.close()
            if kind is None:
                self.process.wait(timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()

    def wait_until_ready(self, threads):
        """Its answer. Raises Unsupported if it says so. Other numbers of threads than asked for would make the comparison worthless."""
        line = self.process.stdout.readline()
        if not line and self.process.wait() == protocol.UNSUPPORTED:
            raise Unsupported(self.stderr_tail())
        ready = self.parse(line, 'ready')
        if ready.get('threads') != threads:
            self.fail(f'computes with {ready.get("threads")} threads instead of {threads}')
        return ready

    def run(self, steps):
        seconds = self.ask(f'run {steps}', 'seconds')['seconds']
        if not (isinstance(seconds, list) and len(seconds) == steps and all(isinstance(s, (int, float)) and s > 0 for s in seconds)):
            self.fail(f'answered "run {steps}" with {seconds}')
        return seconds

    def split(self):
        """part of a step -> seconds; None if it cannot tell. The last question: a program that does not know it is gone afterwards."""
        try:
            return self.ask('split', 'split')['split']
        except Failure:
            if self.process.poll() == protocol.UNKNOWN_COMMAND:
                return None
            raise

    def ask(self, line, *keys):
        try:
            self.process.stdin.write(line + '\n')
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # Its end is seen below.
        return self.parse(self.process.stdout.readline(), *keys)

    def parse(self, line, *keys):
        if not line:
            status = self.process.wait()
            self.fail(f'ended with exit code {status}' if status >= 0 else f'was killed by {signal.Signals(-status).name}')
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or any(key not in answer for key in keys):
            self.fail(f'printed {line.rstrip()[:200]!r} where a JSON line with {", ".join(keys) or "anything"} was due')
        return answer

    def fail(self, what):
        raise Failure(f'{self.name} {what}\ncommand: {shlex.join(self.command)}\n{self.stderr_tail()}')

    def stderr_tail(self):
        self.stderr.seek(0)
        lines = self.stderr.read().decode(errors='replace').splitlines()[-STDERR_LINES:]
        return '\n'.join(f'  | {line}' for line in lines) if lines else '  (nothing on its stderr)'
