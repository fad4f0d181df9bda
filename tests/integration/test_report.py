"""The page of `bitstair report`, from a real job, in headless Chromium; and `compare`."""
import json
import re
import shutil
import struct
import subprocess
import unittest
import zlib

import harness
from harness import SMOKE

SMALL = ('--set', 'data.train_limit=1024', '--set', 'data.test_limit=500', '--set', 'ranks=1')
PLOTS = ['staircase', 'job-0-graph', 'job-0-loss', 'job-0-accuracy', 'job-0-steps', 'job-0-clipping', 'job-0-levels']


def pixels(png):
    """(width, height, rows of RGB tuples) of an 8-bit RGB or RGBA PNG without interlacing."""
    data, at, parts, width, height, channels = png.read_bytes(), 8, b'', 0, 0, 0
    while at < len(data):
        length, kind = struct.unpack('>I4s', data[at:at + 8])
        body = data[at + 8:at + 8 + length]
        if kind == b'IHDR':
            width, height, depth, colour, _, _, interlace = struct.unpack('>IIBBBBB', body)
            assert depth == 8 and interlace == 0 and colour in (2, 6), (depth, colour, interlace)
            channels = 3 if colour == 2 else 4
        if kind == b'IDAT':
            parts += body
        at += 12 + length
    raw, rows, before = zlib.decompress(parts), [], bytes(width * channels)
    stride = width * channels + 1
    for y in range(height):
        method, line = raw[y * stride], bytearray(raw[y * stride + 1:(y + 1) * stride])
        for x in range(len(line)):
            left, up, corner = (line[x - channels] if x >= channels else 0), before[x], (before[x - channels] if x >= channels else 0)
            if method == 1:
                line[x] = (line[x] + left) & 255
            elif method == 2:
                line[x] = (line[x] + up) & 255
            elif method == 3:
                line[x] = (line[x] + (left + up) // 2) & 255
            elif method == 4:
                guess = left + up - corner
                near = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
                line[x] = (line[x] + near) & 255
        before = bytes(line)
        rows.append([tuple(line[x * channels:x * channels + 3]) for x in range(width)])
    return width, height, rows


class ReportTest(harness.Case):

    def screenshot(self, page, name, *flags):
        """A picture of the page; its pixels."""
        picture = self.folder / f'{name}.png'
        done = subprocess.run(['chromium', '--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars', '--window-size=700,500', f'--user-data-dir={self.folder / "chromium"}',
                               *flags, f'--screenshot={picture}', page.as_uri()], capture_output=True, text=True, timeout=120, env={**self.env, 'HOME': str(self.folder)})
        self.assertTrue(picture.exists(), done.stderr[-3000:])
        return pixels(picture)

    def test_every_plot_is_drawn(self):
        if shutil.which('chromium') is None:
            self.skipTest('chromium is not installed (deploy/packages/debian.txt)')
        self.server()
        self.worker()
        first = self.submit(SMOKE, *SMALL, '--set', 'guided={}')
        self.wait_state(first, 'SUCCEEDED')
        second = self.submit(SMOKE, *SMALL, '--set', 'guided={}', '--set', 'widths=[32, 2]')
        self.wait_state(second, 'SUCCEEDED')
        page = self.folder / 'report.html'
        self.assertIn('wrote', self.cli('report', first, second, '-o', page).stderr)
        text = page.read_text()
        self.assertFalse(re.findall(r'aria-label="([^"]*)">[^>]*>nothing was measured yet', text))
        self.assertTrue(f'jobs/{first}/stages/W32A32' in text, 'the second job took its first stage over')
        head, body = text.split('<body>')
        for dark in (False, True):
            shown = head if not dark else head.replace('@media (prefers-color-scheme: dark)', '@media all')
            for plot in PLOTS:
                figure = re.search(rf'<figure id="{plot}">.*?</figure>', body, re.DOTALL)
                self.assertIsNotNone(figure, plot)
                alone = self.folder / f'{plot}.html'
                alone.write_text(shown + '<body>' + figure.group(0) + '</body></html>')
                if dark and plot != 'staircase':
                    continue
                _, _, rows = self.screenshot(alone, f'{plot}{"-dark" if dark else ""}')
                colours = {}
                for row in rows[::2]:
                    for pixel in row[::2]:
                        colours[pixel] = colours.get(pixel, 0) + 1
                ground = max(colours, key=colours.get)
                self.assertEqual(ground, (20, 23, 26) if dark else (255, 255, 255), plot)
                drawn = sum(count for colour, count in colours.items() if max(abs(a - b) for a, b in zip(colour, ground)) > 60)
                self.assertGreater(drawn, 300, f'{plot} is empty')
                if plot != 'job-0-graph':
                    lively = sum(count for colour, count in colours.items() if max(colour) - min(colour) > 60)
                    self.assertGreater(lively, 20, f'{plot} has no line and no bar in a colour')
        printed = self.folder / 'report.pdf'
        subprocess.run(['chromium', '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={self.folder / "chromium"}', f'--print-to-pdf={printed}', page.as_uri()],
                       capture_output=True, timeout=120, env={**self.env, 'HOME': str(self.folder)})
        self.assertGreater(printed.stat().st_size, 10_000)

        table = self.cli('compare', first, second).stdout
        self.assertRegex(table, r'W32A32 +[0-9.]+ % +[0-9.]+ % +\+0\.00')
        self.assertEqual([j['job'] for j in json.loads(self.cli('compare', first, second, '--output', 'json').stdout)['jobs']], [first, second])
        self.assertIn('there is no job', self.cli('report', 'nobody-1234', check=2).stderr)
        self.assertIn('cannot be written', self.cli('report', first, '-o', '/nowhere/report.html', check=2).stderr)


if __name__ == '__main__':
    unittest.main()
