"""The man pages that the build made: one for each command, that man and groff show without a warning, with every option."""
import os
import re
import subprocess
import unittest

from harness import BIN

PAGES = BIN.parent / 'man'


class ManPagesTest(unittest.TestCase):

    def shown(self, page):
        env = {'PATH': '/usr/bin:/bin', 'MANWIDTH': '100', 'MANWARNINGS': 'w', 'LC_ALL': 'C.UTF-8', 'HOME': os.environ.get('HOME', '/')}
        done = subprocess.run(['man', '--warnings=w', '-l', str(page)], env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ''), page.name)
        return re.sub('.\b', '', done.stdout)

    def help(self, *command):
        return subprocess.run([str(BIN / command[0]), *command[1:], '--help'], capture_output=True, text=True, check=True, timeout=60).stdout

    def test_every_program_and_command_has_a_page(self):
        main = self.help('bitstair')
        commands = re.findall(r'(?m)^  ([a-z]+) ', main.split('Subcommands:\n')[1].split('\n\n')[0])
        self.assertGreater(len(commands), 20)
        expected = {'bitstair.1', 'bitstair-server.8', 'bitstair-worker.8', *(f'bitstair-{command}.1' for command in commands)}
        self.assertEqual({page.name for page in PAGES.iterdir()}, expected)
        for page in sorted(PAGES.iterdir()):
            text = self.shown(page)
            self.assertRegex(text, r'(?m)^NAME\n +bitstair\S* - \S')
            name = page.stem.split('-', 1)
            command = [page.stem] if page.suffix == '.8' or len(name) == 1 else ['bitstair', name[1]]
            for option in re.findall(r'(?m)^  (?:-\w,)?(--[a-z-]+)', self.help(*command)):
                self.assertIn(option, text, page.name)
        submit = self.shown(PAGES / 'bitstair-submit.1')
        for part in (r'SYNOPSIS\n +bitstair submit \[OPTIONS\] recipe', r'-o, --output table\|json\|yaml\n', r'EXAMPLES\n +bitstair submit recipes/smoke\.yaml', r'BITSTAIR_COORDINATOR'):
            self.assertRegex(submit, part)
        self.assertRegex(self.shown(PAGES / 'bitstair.1'), r'EXIT STATUS\n +0 done, 1 job failed')


if __name__ == '__main__':
    unittest.main()
