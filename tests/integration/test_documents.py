"""Every command in the documents is run, and what cannot be run here is at least spelled right.

A fence marked `sh` is run: all of a page's, in order, as one bash script that stops at the first failure, in a folder of its own that looks like the clone. Unless the page
starts a coordinator itself, one with a worker is running. Its address stands in for 127.0.0.1:7420. A program that a page starts in the background (`bitstair-server ... &`)
is waited for until it is ready. Lines in EXCEPTIONS are left out; those that train must still have a recipe that is right.
Every `bitstair ...`, also in running text, must name a command and options that there are."""
import os
import pathlib
import re
import shlex
import subprocess
import sys
import unittest

import harness
from harness import BIN, ROOT

PAGES = ['README.md', 'CONTRIBUTING.md', *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('docs/**/*.md'))]
PROGRAMS = ('bitstair', 'bitstair-server', 'bitstair-worker')

LONG = 'sets up or builds'
BENCH = 'measures for minutes'
# page: {beginning of a line: why it is not run}
EXCEPTIONS = {
    'README.md': {
        './dev run recipes/fashion_mnist_w4a4.yaml': 'builds, then trains for more than a minute',
        './dev test': 'runs this test',
    },
    'CONTRIBUTING.md': {
        './dev build': LONG,
        './dev test': 'runs this test',
        'ctest --preset dev': 'runs the other tests',
        './dev format': 'changes the sources; CI runs lint',
        './dev bench': BENCH,
        './dev ablation': LONG,
    },
    'docs/clients.md': {
        'env/bin/pip install': 'needs a package index; the same packages come from deploy/packages/pypi.txt',
    },
    'docs/cli.md': {
        'eval "$(bitstair completion zsh)"': 'is for zsh; test_completion.py does it',
    },
    'docs/guide/first_job.md': {
        'bitstair run recipes/cifar100_resnet20_quick.yaml': 'needs CIFAR-100',
    },
    'docs/guide/cluster.md': {
        'bitstair-server --listen 10.0.0.5:7420': 'needs two machines',
        'bitstair-worker --coordinator 10.0.0.5:7420': 'needs two machines',
    },
    'docs/import.md': {
        'bitstair evaluate --network resnet20': 'needs CIFAR-10 and weights from elsewhere; tests/reference/compare_evaluate.py does it',
    },
    'docs/deploy.md': {
        'cpack ': 'packs for a minute; tests/deploy/test_deb.py does it',
        'apt-get ': 'needs root; tests/deploy/test_deb.py does it',
        'systemctl ': 'needs root and systemd',
        'docker-compose ': 'needs root and Docker; tests/deploy/test_compose.py does it',
        'BITSTAIR_TLS=FOLDER ': 'needs root and Docker; tests/deploy/test_compose.py does it',
        'BITSTAIR_COORDINATOR=10.0.0.5:7420 ': 'needs root and Docker, on a second host',
    },
}

# What the script has beside the page's own lines. A program in the background gets a pipe to say when it is ready.
PREAMBLE = r'''
set -euo pipefail
start() {
  local ready
  ready=$(mktemp -u "$PWD/ready-XXXXXX")
  mkfifo "$ready"
  "$@" --ready-fd 9 9>"$ready" >>"$PWD/background.log" 2>&1 &
  local line
  read -r line <"$ready"
  if [ "$1" = bitstair-server ]; then
    BITSTAIR_COORDINATOR=$(sed -E 's/.*"address": *"([^"]*)".*/\1/' <<<"$line")
    export BITSTAIR_COORDINATOR
  fi
}
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
'''


def fences(page):
    """[(line number, language, text)] of the page's fenced blocks."""
    text = ROOT.joinpath(page).read_text()
    return [(text.count('\n', 0, match.start()) + 1, match[1], match[2]) for match in re.finditer(r'^```([^\n]*)\n(.*?)^```$', text, re.M | re.S)]


def commands(text):
    """A fence's lines, those that end with a backslash joined, without the bodies of here-documents. [(line, is a command)]"""
    end = None
    for line in text.replace('\\\n', ' ').splitlines():
        yield line, end is None
        if end is None:
            here = re.search(r"<<'?(\w+)'?", line)
            end = here and here[1]
        elif line == end:
            end = None


def spans(page):
    """Code in running text."""
    text = re.sub(r'^```.*?^```$', '', ROOT.joinpath(page).read_text(), flags=re.M | re.S)
    return re.findall(r'`([^`\n]+)`', text)


def calls(line):
    """[[program, argument, ...]] of our programs in a shell line; ./dev run and ./dev cli are the command line, too."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    found, words = [], None
    for word in lexer:
        if set(word) <= set('();<>|&'):
            words = None
        elif words is not None:
            words.append(word)
        elif os.path.basename(word) in (*PROGRAMS, 'dev'):
            words = [os.path.basename(word)]
            found.append(words)
    for words in found:
        if words[0] == 'dev' and words[1:2] == ['cli']:
            words[:2] = ['bitstair']
        elif words[0] == 'dev' and words[1:2] == ['run']:
            words[0] = 'bitstair'
    return found


class DocumentsTest(harness.Case):

    helps = {}

    def help_of(self, *words):
        if words not in self.helps:
            program = [str(ROOT / 'dev')] if words[0] == 'dev' else [str(BIN / words[0])]
            self.helps[words] = subprocess.run([*program, *words[1:], 'help' if words[0] == 'dev' else '--help'], capture_output=True, text=True, check=True, timeout=60).stdout
        return self.helps[words]

    def check_call(self, words):
        """Whether the programs know what the call names."""
        program, *arguments = words
        if program == 'dev':
            known = self.help_of('dev')
            if arguments[:1] == ['bench'] and len(arguments) > 1:
                self.assertRegex(known, rf'\b{re.escape(arguments[1])}\b')
            elif arguments and not arguments[0].startswith('-'):
                self.assertRegex(known, rf'(?m)^  {re.escape(arguments[0])}\b')
            return
        known = self.help_of(program)
        if program == 'bitstair' and arguments and not arguments[0].startswith('-'):
            self.assertRegex(known, rf'(?m)^  {re.escape(arguments[0])} ', f'no command {arguments[0]}')
            known = self.help_of(program, arguments[0])
            if 'Subcommands:' in known and len(arguments) > 1:
                self.assertRegex(known, rf'(?m)^  {re.escape(arguments[1])} ', f'no command {arguments[0]} {arguments[1]}')
                known = self.help_of(program, *arguments[:2])
        for argument in arguments:
            if re.match(r'--?[a-z]', argument):
                self.assertRegex(known, rf'(?<![\w-]){re.escape(argument.split("=")[0])}(?![\w-])', f'no option {argument}')

    def exception(self, page, line):
        return next((begin for begin in EXCEPTIONS.get(page, {}) if line.startswith(begin)), None)

    def test_commands_are_marked_and_spelled_right(self):
        used = set()
        for page in PAGES:
            for number, language, text in fences(page):
                for line, is_command in commands(text):
                    with self.subTest(page=page, fence=number, line=line):
                        if language != 'sh':
                            self.assertNotRegex(line, r'^(bitstair|bitstair-server|bitstair-worker|\./dev) ', 'commands stand in fences that are marked sh')
                        elif is_command:
                            used.add((page, self.exception(page, line)))
                            for words in calls(line):
                                self.check_call(words)
            self.assertNotRegex(ROOT.joinpath(page).read_text(), r'(?m)^    (bitstair|bitstair-server|bitstair-worker|\./dev) ', f'{page}: commands stand in fences that are marked sh')
            for span in spans(page):
                if re.match(r'(\./dev|bitstair|bitstair-server|bitstair-worker) ', span):
                    with self.subTest(page=page, span=span):
                        for words in calls(span):
                            self.check_call(words)
        stale = {(page, begin) for page, lines in EXCEPTIONS.items() for begin in lines} - used
        self.assertEqual(stale, set(), 'exceptions for lines that are in no document')

    def test_the_check_of_spelling_finds_what_is_wrong(self):
        for line in ('bitstair list --state RUNNING', 'bitstair token make', 'bitstair token create --user x', 'JOB=$(bitstair sumbit recipes/smoke.yaml)', 'true && bitstair-server --state-dirs x &', './dev run a.yaml --sets b=1', './dev biuld', './dev bench sleep'):
            with self.subTest(line=line):
                calls_found = calls(line)
                self.assertEqual(len(calls_found), 1)
                with self.assertRaises(AssertionError):
                    self.check_call(calls_found[0])
        self.assertEqual(calls("A=1 bitstair run x.yaml --set 'widths=[32, 4]' | tail -1 # bitstair"), [['bitstair', 'run', 'x.yaml', '--set', 'widths=[32, 4]']])

    def test_recipes_of_commands_that_are_not_run_are_right(self):
        for page in EXCEPTIONS:
            for _, language, text in fences(page):
                for line, is_command in commands(text):
                    if language != 'sh' or not is_command or not self.exception(page, line):
                        continue
                    for program, *arguments in calls(line):
                        if program == 'bitstair' and arguments[:1] in (['run'], ['submit']):
                            sets = [word for i, word in enumerate(arguments) if arguments[i - 1] == '--set' or word == '--set']
                            with self.subTest(line=line):
                                self.cli('validate', ROOT / arguments[1], *sets)

    def run_page(self, page):
        script, own_coordinator = [], False
        for _, language, text in fences(page):
            if language == 'python':
                self.folder.joinpath('submit_and_watch.py').write_text(text)
            if language != 'sh':
                continue
            for line, is_command in commands(text):
                if is_command and self.exception(page, line):
                    continue
                if is_command and re.match(r'bitstair-(server|worker) .*&$', line):
                    own_coordinator = own_coordinator or line.startswith('bitstair-server')
                    line = 'start ' + line.removesuffix('&')
                script.append(line)
        if not script:
            return
        for name in ('recipes', 'client', 'deploy', 'docs', 'dev'):
            self.folder.joinpath(name).symlink_to(ROOT / name)
        self.folder.joinpath('build').mkdir()
        self.folder.joinpath('build', 'dev').symlink_to(BIN.parent)
        self.env['PATH'] = f'{BIN}:{os.path.dirname(sys.executable)}:{self.env["PATH"]}'
        if own_coordinator:
            # On a free port, which it tells when it is ready.
            script = [re.sub(r'^start bitstair-server( --listen \S+)?', 'start bitstair-server --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0', line) for line in script]
        else:
            self.server()
            self.worker('w1')
        text = PREAMBLE + '\n'.join(script).replace('127.0.0.1:7420', '"$BITSTAIR_COORDINATOR"') + '\n'
        done = subprocess.run(['bash', '-c', text], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
        log = self.folder / 'background.log'
        self.assertEqual(done.returncode, 0, f'{page}\n{text}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}\n{log.read_text()[-2000:] if log.exists() else ""}')


def add_pages():
    for page in PAGES:
        if any(language == 'sh' for _, language, _ in fences(page)):
            name = re.sub(r'\W', '_', page.removesuffix('.md').removeprefix('docs/')).lower()
            setattr(DocumentsTest, f'test_page_{name}', lambda self, page=page: self.run_page(page))


add_pages()

if __name__ == '__main__':
    unittest.main()
