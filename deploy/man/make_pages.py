"""Makes man pages of the programs from what they say with --help and --version: make_pages.py BIN_FOLDER OUT_FOLDER.

bitstair(1) and a page for each of its commands, bitstair-server(8) and bitstair-worker(8). The help of CLI11 has a description, a usage line, sections of entries
(name, then text from column 30 on) and a footer with paragraphs and examples.
"""
import pathlib
import re
import subprocess
import sys

TEXT_COLUMN = 30
SECTIONS = {'Positionals:': 'ARGUMENTS', 'Options:': 'OPTIONS', 'Subcommands:': 'COMMANDS'}
ENVIRONMENT = [('BITSTAIR_COORDINATOR', 'Where the coordinator listens, in place of \\-\\-coordinator.'), ('NO_COLOR', 'Set to anything: no colours.')]


def text_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={'PATH': '/usr/bin:/bin', 'HOME': '/nonexistent'}).stdout


def roff(text):
    """Text as roff shows it unchanged: hyphens that can be copied, no requests."""
    text = text.replace('\\', '\\e').replace('-', '\\-').replace("'", '\\(aq').replace('`', '\\(ga').replace('^', '\\(ha').replace('~', '\\(ti')
    return '\n'.join('\\&' + line if line.startswith(('.', "'")) else line for line in text.split('\n'))


class Help:
    """What a program says with --help."""

    def __init__(self, text):
        lines = text.rstrip('\n').split('\n')
        usage = next(i for i, line in enumerate(lines) if line.startswith('Usage: '))
        self.description = ' '.join(line.strip() for line in lines[:usage]).strip()
        self.usage = lines[usage].removeprefix('Usage: ')
        self.sections = {}   # title: [[name, text]]
        self.footer = []
        entries = None
        for line in lines[usage + 1:]:
            if line in SECTIONS:
                entries = self.sections.setdefault(SECTIONS[line], [])
            elif entries is not None and re.match(r'  \S', line):
                # A long name has its text in the next line.
                name = line[2:] if len(line) < TEXT_COLUMN or line[TEXT_COLUMN - 1] != ' ' else line[2:TEXT_COLUMN]
                entries.append([name.strip(), line[2 + len(name):].strip()])
            elif entries is not None and entries and line.startswith(' ' * TEXT_COLUMN):
                entries[-1][1] = f'{entries[-1][1]} {line.strip()}'.strip()
            elif line.strip() or self.footer:
                entries = None
                self.footer.append(line)
        while self.footer and not self.footer[-1].strip():
            self.footer.pop()


# "-o,--output table|json:{table,json}=table (Env:X) REQUIRED ..." of CLI11: names, kind of the value, what checks say of it, default.
ENTRY = re.compile(r'(?P<names>\S+)(?: (?P<kind>[^ =:({]+(?:=[A-Z|]+)*(?::PORT)?))?(?::?(?P<words>\{[^}]*\})|:[A-Z]+ in \[(?P<range>[^\]]*)\]|:\w+)?(?:=(?P<default>[^ (]+))?(?P<rest>.*)')


def option_name(name, text):
    """An entry as roff: names bold, values italic; then its text with what is known of the value."""
    found = ENTRY.fullmatch(name)
    shown = ', '.join(f'\\fB{roff(part)}\\fR' for part in found['names'].split(','))
    kind = found['kind'] or ''
    if found['words'] and '|' not in kind:
        kind = '|'.join(found['words'].strip('{}').split(','))
    if kind in ('REQUIRED', '...'):
        kind, rest = '', f' {kind}{found["rest"]}'
    else:
        rest = found['rest']
    facts = []
    if found['range']:
        facts.append(found['range'].replace(' - ', ' to '))
    if found['default']:
        facts.append(f'default {found["default"]}')
    variable = re.search(r'\(Env:([A-Z_]+)\)', rest)
    if variable:
        facts.append(f'environment {variable[1]}')
    if 'REQUIRED' in rest:
        facts.append('required')
    if '...' in rest:
        kind += ' ...'
    head = shown + (f' \\fI{roff(kind.strip())}\\fR' if kind.strip() else '')
    return [head, roff(f'{text} ({"; ".join(facts)})' if facts else text) or '\\&']


def page(name, number, summary, help_text, version, see_also):
    title = name.replace(' ', '-')
    heading = f'.TH {roff(title.upper())} {number} "" "{roff(version)}" "Bitstair"'
    out = [heading, '.nh', '.ad l', '.SH NAME', f'{roff(title)} \\- {roff(summary)}', '.SH SYNOPSIS']
    words = help_text.usage.split(' ')
    out.append(f'\\fB{roff(name)}\\fR {roff(" ".join(words[len(name.split(" ")):]))}')
    out += ['.SH DESCRIPTION', roff(help_text.description)]
    for section, entries in help_text.sections.items():
        out.append(f'.SH {section}')
        for entry, text in entries:
            if section == 'COMMANDS':
                out += ['.TP', f'\\fBbitstair {roff(entry)}\\fR', f'{roff(text)}; see \\fBbitstair\\-{roff(entry)}\\fR(1)']
            else:
                out += ['.TP', *option_name(entry, text)]
    examples = False
    if help_text.footer and not re.match(r'(Examples:|Exit status:)', help_text.footer[0]):
        out.append('.SH NOTES')
    for line in help_text.footer:
        title_line = re.fullmatch(r'(Examples|Exit status):', line)
        status = re.match(r'Exit status: (.*)', line)
        if title_line or status:
            if examples:
                out.append('.fi')
            examples = bool(title_line) and title_line[1] == 'Examples'
            out.append('.SH ' + ('EXAMPLES' if examples else 'EXIT STATUS'))
            if examples:
                out.append('.nf')
            if status:
                out.append(roff(status[1]))
        elif not line.strip():
            if not examples:
                out.append('.PP')
        elif examples and not line.startswith('  '):
            out += ['.fi', '.PP', roff(line)]
            examples = False
        else:
            out.append(roff(line.strip() if examples else line))
    if examples:
        out.append('.fi')
    if any('BITSTAIR_COORDINATOR' in f'{entry}' for entries in help_text.sections.values() for entry, _ in entries):
        out.append('.SH ENVIRONMENT')
        for variable, text in ENVIRONMENT:
            out += ['.TP', f'\\fB{variable}\\fR', text]
    out += ['.SH SEE ALSO', ',\n'.join(f'\\fB{roff(other)}\\fR({n})' for other, n in see_also if other != title)]
    # A paragraph before a heading, or two in a row, is nothing.
    lines = [line for i, line in enumerate(out) if line != '.PP' or (i + 1 < len(out) and not out[i + 1].startswith(('.SH', '.PP', '.fi')) and not out[i - 1].startswith('.SH'))]
    return '\n'.join(lines) + '\n'


def lower_first(text):
    """A summary as man pages have it: "submit - hand a recipe to ..."."""
    text = text.rstrip('.')
    return text[0].lower() + text[1:] if len(text) > 1 and not text[1].isupper() else text


def main(bin_folder, out_folder):
    bin_folder, out_folder = pathlib.Path(bin_folder).resolve(), pathlib.Path(out_folder)
    out_folder.mkdir(parents=True, exist_ok=True)
    for old in out_folder.glob('*.[18]'):
        old.unlink()
    root = Help(text_of(bin_folder / 'bitstair', '--help'))
    version = text_of(bin_folder / 'bitstair', '--version').split('\n')[0]
    commands = root.sections['COMMANDS']
    basics = [('bitstair', 1), ('bitstair-server', 8), ('bitstair-worker', 8)]
    (out_folder / 'bitstair.1').write_text(page('bitstair', 1, lower_first(root.description), root, version, [*basics, *((f'bitstair-{name}', 1) for name, _ in commands)]))
    for name, summary in commands:
        if name == 'evaluate' and not (bin_folder / 'bitstair-evaluator').exists():
            continue  # a build without LibTorch
        try:
            own = Help(text_of(bin_folder / 'bitstair', name, '--help'))
        except subprocess.CalledProcessError:
            if name != 'evaluate':
                raise
            print('no page for bitstair evaluate: its program does not start on this machine', file=sys.stderr)  # a GPU build without NVIDIA's libraries
            continue
        (out_folder / f'bitstair-{name}.1').write_text(page(f'bitstair {name}', 1, lower_first(summary), own, version, basics))
    for program in ('bitstair-server', 'bitstair-worker'):
        own = Help(text_of(bin_folder / program, '--help'))
        (out_folder / f'{program}.8').write_text(page(program, 8, lower_first(own.description), own, version, basics))


if __name__ == '__main__':
    main(*sys.argv[1:])
