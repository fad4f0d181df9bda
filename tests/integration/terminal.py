"""A real terminal for the integration tests: a pane of tmux with a shell in it."""
import re
import shutil
import subprocess

from harness import BIN, wait_for

PROMPT = 'ready> '


def has_tmux():
    return shutil.which('tmux') is not None


class Terminal:

    def __init__(self, case, columns=100, rows=30, shell=('sh',), **env):
        self.socket = case.folder / f'tmux-{shell[0]}'
        self.columns, self.rows = columns, rows
        environment = {**case.env, 'NO_COLOR': None, 'LC_ALL': 'C.UTF-8', 'PATH': f'{BIN}:{case.env.get("PATH", "/usr/bin:/bin")}', **env}
        environment = {key: value for key, value in environment.items() if value is not None}
        case.addCleanup(self.tmux, 'kill-server', check=False)
        self.tmux('-f', '/dev/null', 'new-session', '-d', '-x', columns, '-y', rows, 'env', f'PS1={PROMPT}', *shell, env=environment)
        self.wait(re.escape(PROMPT.strip()))

    def tmux(self, *arguments, check=True, env=None):
        done = subprocess.run(['tmux', '-u', '-S', str(self.socket), *map(str, arguments)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
        if check and done.returncode != 0:
            raise AssertionError(f'tmux {arguments}: {done.stderr}')
        return done.stdout

    def type_keys(self, text):
        self.tmux('send-keys', '-l', '--', text)

    def type(self, line):
        """A line with its Enter."""
        self.type_keys(line)
        self.press('Enter')

    def press(self, *keys):
        for key in keys:
            self.tmux('send-keys', key)

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.tmux('resize-window', '-x', columns, '-y', rows)

    def screen(self):
        """The lines that are on it, as many as it has rows."""
        return self.tmux('capture-pane', '-p').split('\n')[:-1]

    def escapes(self):
        """The same with colours and attributes as escape sequences."""
        return self.tmux('capture-pane', '-p', '-e')

    def everything(self):
        """What has scrolled away, too."""
        return self.tmux('capture-pane', '-p', '-J', '-S', '-')

    def value(self, name):
        """One of tmux's format variables of the pane."""
        return self.tmux('display-message', '-p', f'#{{{name}}}').strip()

    def wait(self, pattern, seconds=60, scrolled=False):
        """Polls until the screen matches, with scrolled also what left it; returns it as one text."""
        last = ['']

        def look():
            last[0] = self.everything() if scrolled else '\n'.join(self.screen())
            return last[0] if re.search(pattern, last[0].rstrip('\n')) else None
        try:
            return wait_for(look, pattern, seconds)
        except AssertionError as error:
            raise AssertionError(f'{error}; the screen:\n{last[0]}') from None

    def clear(self):
        # A shell throws away what was typed before it has dealt with an interrupt.
        self.wait(rf'(?m)^{re.escape(PROMPT.strip())}\s*\Z')
        self.type(r"printf '\033[H\033[2J'")
        self.wait(rf'\A\s*{re.escape(PROMPT.strip())}\s*\Z')

    def assert_restored(self, case):
        """The shell has its terminal back as it was."""
        self.clear()
        self.type('stty -a | tr ";" " " && echo stty-done')
        modes = self.wait(r'\nstty-done')
        for mode in ('icanon', 'echo', 'isig', 'icrnl', 'opost'):
            case.assertRegex(modes, rf'(?<![-\w]){mode}\b')
        case.assertEqual(self.value('alternate_on'), '0')
        case.assertEqual(self.value('cursor_flag'), '1')
