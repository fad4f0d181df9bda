"""The command line in a real terminal of a set size: what is on the screen, what keys and a new size change, and that the shell gets it back whole."""
import json
import re
import unittest

import harness
from harness import SMOKE
from terminal import Terminal, has_tmux

SMALL = ('--set', 'data.train_limit=1024', '--set', 'data.test_limit=500', '--set', 'ranks=1')
LONG = (*SMALL, '--set', 'pretrain.epochs=1', '--set', 'quantized.epochs=500')
COLOUR = re.compile(r'\x1b\[(?:\d+;)*3[0-7]m')


@unittest.skipUnless(has_tmux(), 'tmux is not installed (deploy/packages/debian.txt)')
class TerminalTest(harness.Case):

    def assert_fits(self, terminal):
        lines = terminal.screen()
        self.assertEqual(len(lines), terminal.rows)
        self.assertTrue(all(len(line) <= terminal.columns for line in lines), lines)

    def test_top(self):
        server = self.server()
        self.worker(slots=1)
        running = self.submit(SMOKE, *LONG)
        waiting = self.submit(SMOKE, *LONG, '--set', 'seed=3', '--set', 'queue=vision', '--set', 'priority=low')
        terminal = Terminal(self, 110, 30)
        terminal.type('bitstair top; echo "left with $?"')
        # The fleet; what runs with its stage and bar; what waits with the reason.
        screen = terminal.wait(rf'{running} +RUNNING.* W4A32 +4/32 .* % +\d+/\d+ +\d\.\d+')
        self.assertRegex(screen, r'1 worker ready, 1 of 1 slot busy; 1 job runs, 1 waits')
        self.assertRegex(screen, rf'w1 +READY .* 1/1 +CPU +{running}/W4A32')
        terminal.wait(rf'{waiting} +PENDING +vision .*W32A32 +32/32 +waits for ')
        self.assertEqual(terminal.value('alternate_on'), '1')
        self.assertRegex(terminal.screen()[-1], '^q quit')
        self.assertRegex(terminal.escapes(), COLOUR)
        self.assert_fits(terminal)
        # The second job is chosen: its reason has a line of its own. Its stages, and back to the first one's with the staircase.
        terminal.press('Down')
        terminal.wait(rf'(?m)^{waiting}: waits for ')
        terminal.press('Enter')
        terminal.wait(rf'(?m)^{waiting}  PENDING(?s:.)*esc jobs')
        terminal.press('Escape')
        terminal.wait(r'enter stages')  # a key that follows at once would be taken for one with Alt
        terminal.press('Up', 'Enter')
        screen = terminal.wait(rf'(?m)^{running}  RUNNING(?s:.)*esc jobs')
        self.assertRegex(screen, r'W32A32 +32/32 +SUCCEEDED +\S+ 100 % +1/1')
        self.assertRegex(terminal.wait(r'top-1 \(%\) by bits'), r'━━━')
        # A small window, and a large one.
        terminal.resize(60, 16)
        terminal.wait(r'(?m)^q quit +esc jobs.*\Z')
        self.assert_fits(terminal)
        terminal.press('Escape')
        terminal.wait(rf'(?m)^{running} +RUNNING.* W4A32 +\S+ +\d+ %')
        terminal.press('?')
        terminal.wait(r'(?m)^Keys$')
        terminal.press('x', 'w')
        terminal.wait(r'w jobs +up/down workers')
        terminal.press('w')
        terminal.resize(150, 40)
        terminal.wait(r'images/s +left\n')
        self.assert_fits(terminal)
        # A coordinator that goes is missed, and found again.
        server.kill()
        screen = terminal.wait(r'no contact for \d+ s, trying again')
        self.assertIn(running, screen)
        self.server(listen=server.ready['address'])
        terminal.wait(rf'1 worker ready(?s:.)*{running} +RUNNING')
        terminal.press('q')
        terminal.wait(r'left with 0')
        terminal.assert_restored(self)

        # Stopped by the shell, continued, interrupted.
        terminal.type('bitstair top')
        terminal.wait(r'q quit')
        terminal.press('C-z')
        terminal.wait(r'Stopped')
        terminal.assert_restored(self)
        terminal.type('fg; echo "left with $?"')
        terminal.wait(rf'{running} +RUNNING(?s:.)*q quit')
        terminal.press('C-c')
        terminal.wait(r'left with 130')
        terminal.assert_restored(self)
        terminal.type('NO_COLOR=1 bitstair top; echo "left with $?"')
        terminal.wait(r'q quit(?s:.)*\Z')
        terminal.wait(running)
        self.assertNotRegex(terminal.escapes(), COLOUR)
        terminal.press('q')
        terminal.wait(r'left with 0')
        # A locale without UTF-8 gets ASCII; a terminal of no known type a message, or one picture.
        terminal.clear()
        terminal.type('LC_ALL=C bitstair top; echo "left with $?"')
        screen = terminal.wait(rf'{running} +RUNNING.* [#-]+ +\d+ %')
        self.assertTrue(screen.isascii(), screen)
        terminal.press('q')
        terminal.wait(r'left with 0')
        terminal.clear()
        terminal.type('TERM=nonsense bitstair top; echo "left with $?"')
        terminal.wait(r'"nonsense" \(TERM\) is not known here(?s:.)*left with 2')
        terminal.clear()
        terminal.type('TERM=dumb bitstair top; echo "left with $?"')
        terminal.wait(rf'{running} +RUNNING(?s:.)*left with 0')

        # Off a terminal: one picture, and the same as data.
        once = self.cli('top').stdout
        self.assertRegex(once, rf'(?m)^{running} +RUNNING ')
        self.assertNotIn('\x1b', once)
        data = json.loads(self.cli('top', '--output', 'json').stdout)
        self.assertEqual([job['job'] for job in data['jobs']], [running, waiting])
        self.assertEqual(len(data['workers']), 1)
        server = self.daemons[-1]
        server.kill()
        self.assertIn('not reachable', self.cli('top', '--once', check=3).stderr)

    def test_top_that_begins_before_the_coordinator(self):
        server = self.server()
        server.kill()
        terminal = Terminal(self, 80, 24)
        terminal.type('bitstair top; echo "left with $?"')
        terminal.wait(r'not reached for \d+ s, trying again')
        self.server(listen=server.ready['address'])
        terminal.wait(r'0 workers ready, 0 of 0 slots busy; 0 jobs run, 0 wait')
        terminal.wait(r'no jobs; bitstair submit RECIPE makes one')
        terminal.press('Enter', 'Down', 'q')
        terminal.wait(r'left with 0')
        terminal.assert_restored(self)

    def test_watch(self):
        self.server()
        self.worker(slots=1)
        job = self.submit(SMOKE, *LONG)
        terminal = Terminal(self, 120, 24)
        terminal.type(f'bitstair watch {job}; echo "left with $?"')
        terminal.wait(r'(?m)^W32A32: done  1 epoch  top-1 \d+\.\d+ %')
        terminal.wait(r'(?m)^W4A32 +4/32 bit  epoch \d+/\d+ \[#*-*\]  loss \d\.\d+ .* left')
        terminal.resize(60, 24)
        screen = terminal.wait(r'(?m)^W4A32 +4/32 bit  epoch \d+/\d+  loss')
        self.assertRegex(screen, r'(?m)^W4A32 .{0,53}$')
        terminal.press('C-c')
        terminal.wait(r'the job goes on; bitstair watch(?s:.)*left with 130')
        terminal.assert_restored(self)
        terminal.resize(120, 24)
        terminal.clear()
        terminal.type(f'bitstair logs {job} -f; echo "left with $?"')
        terminal.wait(r'(?m)^== W32A32, rank 0(?s:.)*== W4A32, rank 0\n.', scrolled=True)
        terminal.press('C-c')
        terminal.wait(r'left with 130')
        terminal.clear()
        terminal.type(f'bitstair describe {job}; echo "left with $?"')
        terminal.wait(r'left with 0')
        shown = terminal.everything()
        self.assertIn('top-1 (%) by bits of weights/activations', shown)
        self.assertRegex(shown, r'━━[━┓┛]')
        self.assertNotRegex(terminal.escapes(), COLOUR)
        terminal.clear()
        terminal.type(f'bitstair watch {job}; echo "left with $?"')
        terminal.wait(r'(?m)^W4A32 +4/32 bit  epoch \d+/\d+ \[')
        self.cli('cancel', job)
        screen = terminal.wait(r'left with 4')
        self.assertRegex(screen, r'(?m)^stage +bits W/A +epochs')
        self.assertNotRegex(screen, r'images/s', 'the live line is gone')
        terminal.assert_restored(self)

    def test_run(self):
        terminal = Terminal(self, 100, 30)
        terminal.type(f'bitstair run {SMOKE} --slots 2 --state-dir {self.folder}/state; echo "left with $?"')
        terminal.wait(r'(?m)^W32A32 +32/32 bit  epoch 1/2 ')
        terminal.press('C-c')
        terminal.wait(r'checkpointing and stopping(?s:.)*left with 130')
        terminal.assert_restored(self)
        terminal.clear()
        terminal.type(f'bitstair run {SMOKE} --slots 2 --state-dir {self.folder}/state; echo "left with $?"')
        screen = terminal.wait(r'left with 0', seconds=120)
        self.assertIn('an unfinished job of the same recipe', terminal.everything().replace('\n', ''))
        self.assertRegex(screen, r'(?m)^W4A4 +4/4 +1 +\d+\.\d+ %')
        terminal.assert_restored(self)
        self.assert_nothing_runs()


if __name__ == '__main__':
    unittest.main()
