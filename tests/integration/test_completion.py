"""Completion in real shells: bash with the words that it would hand over and with the Tab key, zsh with the Tab key."""
import shutil
import subprocess
import unittest

import harness
from harness import BIN, SMOKE
from terminal import Terminal, has_tmux

SMALL = ('--set', 'data.train_limit=1024', '--set', 'data.test_limit=500', '--set', 'ranks=1')
# What readline does: words break at = and : too, which are pieces of their own.
BASH = r'''
source <("$1" completion bash)
compopt() { :; }  # only inside of a real completion
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDS=()
line=$2
while [[ $line =~ ^([[:space:]]*)([^[:space:]=:]+|[=:]+)(.*)$ ]]; do COMP_WORDS+=("${BASH_REMATCH[2]}"); line=${BASH_REMATCH[3]}; done
[[ $line == [[:space:]]* ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_bitstair
printf '%s\n' "${COMPREPLY[@]}"
'''


class CompletionTest(harness.Case):

    def setUp(self):
        super().setUp()
        self.env = {**self.env, 'PATH': f'{BIN}:/usr/bin:/bin', 'BITSTAIR_COORDINATOR': '127.0.0.1:1', 'LC_ALL': 'C.UTF-8'}
        (self.folder / 'mine.yaml').write_text('')
        (self.folder / 'notes.txt').write_text('')
        (self.folder / 'recipes').mkdir()

    def bash(self, line):
        done = subprocess.run(['bash', '--norc', '--noprofile', '-c', BASH, 'bash', str(BIN / 'bitstair'), line], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, ''), line)
        return [word for word in done.stdout.split('\n') if word]

    def test_bash_from_the_tree_of_commands(self):
        self.assertEqual(self.bash('bitstair de'), ['describe'])
        self.assertGreater(len(self.bash('bitstair ')), 20)
        self.assertNotIn('__complete', self.bash('bitstair '))
        self.assertEqual(self.bash('bitstair list --o'), ['--output'])
        self.assertEqual(self.bash('bitstair list --output '), ['table', 'json', 'yaml'])
        self.assertEqual(self.bash('bitstair list -o j'), ['json'])
        self.assertEqual(self.bash('bitstair list --output=y'), ['yaml'])
        self.assertEqual(self.bash('bitstair list --output='), ['table', 'json', 'yaml'])
        self.assertEqual(self.bash('bitstair run x.yaml --log-level d'), ['debug'])
        self.assertEqual(self.bash('bitstair prioritize some-job --priority '), ['low', 'normal', 'high'])
        self.assertEqual(self.bash('bitstair completion '), ['bash', 'zsh'])
        self.assertEqual(self.bash('bitstair evaluate --spl'), ['--split'])
        self.assertEqual(self.bash('bitstair evaluate --split '), ['test', 'train'])
        self.assertEqual(self.bash('bitstair nonsense '), [])
        # Every command that help shows, and every long option of each.
        for command in self.bash('bitstair '):
            help_text = self.cli(command, '--help').stdout
            for option in self.bash(f'bitstair {command} --'):
                self.assertIn(option, help_text)
            self.assertIn('--help', self.bash(f'bitstair {command} --h'), command)

    def test_bash_files_and_keys(self):
        self.assertEqual(sorted(self.bash('bitstair run ')), ['mine.yaml', 'recipes'])
        self.assertEqual(self.bash('bitstair run mi'), ['mine.yaml'])
        self.assertEqual(self.bash('bitstair run mine.yaml '), [], 'one recipe is enough')
        self.assertEqual(self.bash('bitstair run --state-dir '), ['recipes'])
        self.assertEqual(sorted(self.bash('bitstair report some-job --file ')), ['mine.yaml', 'notes.txt', 'recipes'])
        self.assertEqual(self.bash('bitstair run mine.yaml --data mnist=no'), ['notes.txt'])
        self.assertIn('widths=', self.bash('bitstair run mine.yaml --set w'))
        self.assertEqual(self.bash('bitstair run mine.yaml --set quantized.ep'), ['quantized.epochs='])
        self.assertEqual(self.bash('bitstair run mine.yaml --set order='), ['per_width', 'per_stage'])
        self.assertEqual(self.bash('bitstair run mine.yaml --set two_stage=t'), ['true'])

    def test_names_of_a_coordinator(self):
        self.assertEqual(self.bash('bitstair describe '), [], 'no coordinator, no names, no complaint')
        server = self.server()
        self.worker(slots=1)
        job = self.submit(SMOKE, *SMALL)
        self.assertEqual(self.bash('bitstair describe '), [job])
        self.assertEqual(self.bash(f'bitstair compare {job} smo'), [job])
        self.assertEqual(self.bash('bitstair cordon '), ['w1'])
        harness.wait_for(lambda: self.bash(f'bitstair logs {job} --stage W3') == ['W32A32'], 'its stages')
        self.env['BITSTAIR_COORDINATOR'] = '127.0.0.1:1'
        self.assertEqual(self.bash(f'bitstair describe --coordinator {server.ready["address"]} '), [job])
        self.assertEqual(self.bash(f'bitstair describe --coordinator={server.ready["address"]} '), [job])

    @unittest.skipUnless(has_tmux(), 'tmux is not installed (deploy/packages/debian.txt)')
    def test_tab_in_bash(self):
        terminal = Terminal(self, 100, 30, ('bash', '--norc', '--noprofile'))
        terminal.type(f'cd {self.folder}; eval "$(bitstair completion bash)"')
        terminal.clear()
        self.check_tab(terminal)

    @unittest.skipUnless(has_tmux() and shutil.which('zsh'), 'tmux or zsh is not installed (deploy/packages/debian.txt)')
    def test_tab_in_zsh(self):
        terminal = Terminal(self, 100, 30, ('zsh', '-f'))
        terminal.type(f'cd {self.folder}; autoload -U compinit; compinit -u -D; eval "$(bitstair completion zsh)"')
        terminal.clear()
        self.check_tab(terminal)
        # Descriptions, too.
        terminal.clear()
        terminal.type_keys('bitstair p')
        terminal.press('Tab')
        terminal.wait(r'pause +-- Stop a job at a checkpoint')
        terminal.press('C-c')
        # As compinit finds it in a folder.
        installed = self.folder / 'functions'
        installed.mkdir()
        (installed / '_bitstair').write_text(self.cli('completion', 'zsh').stdout)
        terminal.type(f'exec zsh -f')
        terminal.clear()
        terminal.type(f'fpath=({installed} $fpath); autoload -U compinit; compinit -u -D')
        terminal.clear()
        self.check_tab(terminal)

    def check_tab(self, terminal):
        terminal.type_keys('bitstair descr')
        terminal.press('Tab')
        terminal.wait(r'> bitstair describe$')
        terminal.type_keys('--outp')
        terminal.press('Tab')
        terminal.wait(r'> bitstair describe --output ?$')
        terminal.type_keys(' ya')
        terminal.press('Tab')
        terminal.wait(r'> bitstair describe --output +yaml ?$')
        terminal.press('C-c')
        terminal.clear()
        terminal.type_keys('bitstair run mi')
        terminal.press('Tab')
        terminal.wait(r'> bitstair run mine\.yaml ?$')
        terminal.type_keys(' --set=quantized.ep')
        terminal.press('Tab')
        terminal.wait(r'--set=quantized\.epochs=$')
        terminal.type_keys('3 --data mnist=no')
        terminal.press('Tab')
        terminal.wait(r'--set=quantized\.epochs=3 --data mnist=notes\.txt ?$')
        terminal.press('C-c')


if __name__ == '__main__':
    unittest.main()
