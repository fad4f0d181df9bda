#!/usr/bin/env python3
"""Makes recipe.md, api.md and messages.md in this folder from the comments in proto/bitstair/v1 and from the defaults that the programs write out.

usage: generate.py BIN [--check]     BIN: the folder of the built programs. --check: writes nothing, exits with 1 where a page is not up to date.
Needs protoc and the Python package protobuf (deploy/packages; PYTHONPATH=$BITSTAIR_DEPS/grpc)."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

from google.protobuf import descriptor_pb2

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parents[1] / 'proto'
PACKAGE = '.bitstair.v1.'
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {Field.TYPE_STRING: 'text', Field.TYPE_BYTES: 'bytes', Field.TYPE_BOOL: 'boolean', Field.TYPE_DOUBLE: 'number', Field.TYPE_FLOAT: 'number'}
MADE = '<!-- Made by docs/reference/generate.py from proto/bitstair/v1; edit the comments there. -->\n'

# Recipes that leave out, between them, every key that has a default of its own. What a key becomes in several of them is its default; where that differs, the
# default depends on other keys, and its comment says how.
BASE = {'name': 'probe', 'network': 'resnet20', 'data': {'name': 'probe'}, 'widths': [32, 4], 'pretrain': {'epochs': 2}, 'quantized': {'epochs': 2}}
STEP = {'epochs': 2, 'learning_rate_schedule': 'step', 'step_epochs': [1]}
GRAPH = {'name': 'probe', 'network': 'resnet20', 'data': {'name': 'probe'}, 'require': 'top1 >= 1', 'on_gate_failure': 'go_on',
         'stages': [{'weight_bits': 32, **STEP}, {'weight_bits': 4, 'parent': 'W32A32', 'epochs': 1}]}
PROBES = [
    BASE,
    {**BASE, 'guided': {}, 'stochastic_precision': {}, 'momentum': 0, 'pretrain': STEP, 'quantized': STEP},
    {**BASE, 'distillation': {}, 'ranks': 2, 'reduction': 'fixed_shards'},
    {**BASE, 'initial_weights': {'path': '/probe'}, 'reduction': 'fixed_shards'},
    GRAPH,
    {**GRAPH, 'require': 'top1 >= 2', 'on_gate_failure': 'stop'},
]


class Wrong(Exception):
    """A comment that lacks something, or says what is not so."""


class Comments:
    """The descriptors of the API's files, each with its comment."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            out = pathlib.Path(folder) / 'set'
            files = sorted(str(path.relative_to(PROTO)) for path in PROTO.glob('bitstair/v1/*.proto'))
            subprocess.run(['protoc', '-I', str(PROTO), '--include_source_info', f'--descriptor_set_out={out}', *files], check=True)
            files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
        self.messages, self.enums, self.services = {}, {}, []
        self.comments, self.groups = {}, {}  # by name: "Job", "Job.state", "JOB_STATE_RUNNING"
        for file in files:
            locations = {tuple(location.path): location for location in file.source_code_info.location}

            def note(name, *path):
                location = locations.get(path)
                if location is not None:
                    self.comments[name] = text_of(location.leading_comments) or text_of(location.trailing_comments)
                    for detached in location.leading_detached_comments:
                        if detached.strip().startswith('== '):
                            self.groups[name] = detached.strip()[3:]
            for m, message in enumerate(file.message_type):
                self.messages[PACKAGE + message.name] = message
                note(message.name, 4, m)
                for f, field in enumerate(message.field):
                    note(f'{message.name}.{field.name}', 4, m, 2, f)
                for nested in message.nested_type:
                    self.messages[f'{PACKAGE}{message.name}.{nested.name}'] = nested
            for e, enum in enumerate(file.enum_type):
                self.enums[PACKAGE + enum.name] = enum
                note(enum.name, 5, e)
                for v, value in enumerate(enum.value):
                    note(value.name, 5, e, 2, v)
            for s, service in enumerate(file.service):
                self.services.append(service)
                note(service.name, 6, s)
                for m, method in enumerate(service.method):
                    note(f'{service.name}.{method.name}', 6, s, 2, m)

    def of(self, *names):
        return self.comments.get('.'.join(names), '')

    def line(self, *names):
        return ' '.join(self.of(*names).split())

    def map_value(self, field):
        """The value field of a map, else None."""
        message = self.messages.get(field.type_name)
        return message.field[1] if message is not None and message.options.map_entry else None


def text_of(comment):
    return '\n'.join(line.strip() for line in comment.strip().splitlines())


def marked(comment, *marks):
    """The comment's text, and what follows each of the marks in it (None: no such line), without the last period."""
    parts = re.split(rf'^({"|".join(marks)}): ', comment, flags=re.M)
    found = {mark: ' '.join(text.split()).removesuffix('.') for mark, text in zip(parts[1::2], parts[2::2])}
    return ' '.join(parts[0].split()), *(found.get(mark) for mark in marks)


def cell(text):
    """For a table: links to other pages, no bars, no stars that would be taken for emphasis."""
    text = re.sub(r'(`[^`]*`)|docs/((?:formats/)?[a-z_]+\.md)', lambda m: m[1] or f'[{m[2]}](../{m[2]})', text)
    return re.sub(r'(`[^`]*`)|([|*])', lambda m: m[1].replace('|', '\\|') if m[1] else '\\' + m[2], text)


def words_of(enum):
    """{word in a recipe: value} of an enum."""
    prefix = enum.value[0].name.removesuffix('UNSPECIFIED')
    return {value.name.removeprefix(prefix).lower(): value for value in enum.value[1:]}


def is_list(field):
    return field.label == Field.LABEL_REPEATED


def found_defaults(binaries):
    """{path: set of values} that the programs write out for keys that a probe leaves out; a list's entries are all under "key[]"."""
    found = {}

    def compare(path, given, resolved):
        if isinstance(resolved, dict):
            for key, value in resolved.items():
                inside = f'{path}.{key}' if path else key
                if isinstance(value, (dict, list)) or not isinstance(given, dict) or key not in given:
                    compare(inside, given.get(key) if isinstance(given, dict) else None, value)
        elif isinstance(resolved, list):
            for i, value in enumerate(resolved):
                if isinstance(value, dict):
                    compare(f'{path}[]', given[i], value)
        else:
            found.setdefault(path, set()).add(json.dumps(resolved).strip('"').removesuffix('.0'))
    with tempfile.TemporaryDirectory() as folder:
        for probe in PROBES:
            path = pathlib.Path(folder) / 'probe.yaml'
            path.write_text(json.dumps(probe))
            done = subprocess.run([str(binaries / 'bitstair'), 'validate', str(path), '--output', 'json'], capture_output=True, text=True)
            if done.returncode:
                raise Wrong(f'the recipe {json.dumps(probe)} is refused:\n{done.stderr}')
            compare('', probe, json.loads(done.stdout)['spec'])
    return found


def check_words(api, binaries):
    """The programs name the networks and quantisers that they know; the comments must have the same."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'probe.yaml'
        for key in ('network', 'quantizer'):
            path.write_text(json.dumps({**BASE, key: 'probe'}))
            done = subprocess.run([str(binaries / 'bitstair'), 'validate', str(path)], capture_output=True, text=True)
            known = set(re.search(r'known: (.*)', done.stderr)[1].split(', '))
            said = set(marked(api.of('JobSpec', key), 'Allowed', 'Default')[1].split(', '))
            if known != said:
                raise Wrong(f'JobSpec.{key}: its comment and the programs differ in {", ".join(sorted(known ^ said))}')


def check_default(key, said, paths, found):
    """Holds a "Default:" against what the programs write."""
    values = {path: found[path] - {''} for path in paths if found.get(path, set()) - {''}}
    if not values:
        return
    if any(len(several) > 1 for several in values.values()):
        return  # it depends on other keys
    one = {path: min(several) for path, several in values.items()}
    real = min(one.values()) if len(set(one.values())) == 1 else ', '.join(f'{value} ({path.split(".")[0]})' for path, value in one.items())
    if said != real:
        raise Wrong(f'{key}: its comment says "Default: {said}.", but the programs write {real}')


def recipe_page(api, binaries):
    check_words(api, binaries)
    found = found_defaults(binaries)
    places = {}  # message -> the keys that are of this type, in order

    def walk(message, path):
        places.setdefault(message.name, []).append(path)
        for field in message.field:
            if field.type == Field.TYPE_MESSAGE and api.map_value(field) is None:
                walk(api.messages[field.type_name], (f'{path}.' if path else '') + field.name + ('[]' if is_list(field) else ''))
    walk(api.messages[PACKAGE + 'JobSpec'], '')

    def kind(field):
        value = api.map_value(field)
        if value is not None:
            return f'map of {"list" if value.type == Field.TYPE_MESSAGE else "text"}'
        if field.type == Field.TYPE_MESSAGE:
            inner = places[field.type_name.removeprefix(PACKAGE)]
            link = f'[{field.name}](#{heading(inner).replace("`", "").replace(",", "").replace("[]", "").replace(".", "").replace(" ", "-").lower()})'
            return f'list of {link}' if is_list(field) else f'keys: {link}'
        text = 'word' if field.type == Field.TYPE_ENUM else SCALARS.get(field.type, 'whole number')
        return f'list of {text}s' if is_list(field) else text

    def heading(paths):
        return ', '.join(f'`{path}`' for path in paths)

    enums = {}  # enum -> where its words are explained

    def table(message, fields, paths):
        lines = ['| key | type | default | allowed | meaning |', '|---|---|---|---|---|']
        after = []
        for field in fields:
            key = f'{message.name}.{field.name}'
            meaning, allowed, default = marked(api.of(key), 'Allowed', 'Default')
            if not meaning or default is None:
                raise Wrong(f'{key}: its comment must say what it means and have a line "Default:"')
            check_default(key, default, [f'{path}.{field.name}' if path else field.name for path in paths], found)
            if field.type == Field.TYPE_ENUM:
                enum = api.enums[field.type_name]
                allowed = ', '.join(f'`{word}`' for word in words_of(enum))
                if enum.name in enums:
                    meaning += f' The words are explained at `{enums[enum.name]}` above.'
                else:
                    enums[enum.name] = field.name
                    after.append((field.name, enum))
            elif field.type == Field.TYPE_BOOL:
                allowed = '`true`, `false`'
            elif allowed is None and field.type != Field.TYPE_MESSAGE:
                raise Wrong(f'{key}: its comment must have a line "Allowed:"')
            lines.append(f'| `{field.name}` | {kind(field)} | {cell(default)} | {cell(allowed or "")} | {cell(meaning)} |')
        for name, enum in after:
            lines += ['', f'`{name}`. {cell(api.line(enum.name))}'.strip()]
            for word, value in words_of(enum).items():
                if not api.of(value.name):
                    raise Wrong(f'{value.name} has no comment')
                lines.append(f'- `{word}`: {cell(api.line(value.name))}')
        return lines

    lines = ['# Recipe reference', MADE,
             'Every key of a recipe. A recipe is a YAML file; `bitstair validate FILE --output yaml` shows it with all its defaults, and `--set KEY=VALUE` changes a key of any command that reads one (`--set quantized.epochs=3`). Numbers that are wrong, keys that do not exist and combinations that exclude each other are',
             'refused with file, line and column. How keys work together: [methods.md](../methods.md).', '']
    job = api.messages[PACKAGE + 'JobSpec']
    group = []
    for field in [*job.field, None]:
        if field is None or f'JobSpec.{field.name}' in api.groups:
            if group:
                lines += ['', '## ' + api.groups[f'JobSpec.{group[0].name}'], *table(job, group, [''])]
            group = []
        if field is not None:
            group.append(field)
    for name, paths in places.items():
        if name == 'JobSpec':
            continue
        message = api.messages[PACKAGE + name]
        lines += ['', f'## {heading(paths)}']
        if api.of(name):
            lines.append(cell(api.line(name)))
            lines.append('')
        lines += table(message, message.field, paths)
    return '\n'.join(lines) + '\n', set(places), set(enums)


ERRORS = '''
## Errors
Every error carries a `google.rpc.Status` (trailing metadata `grpc-status-details-bin`) with a `google.rpc.ErrorInfo`: domain `bitstair.dev`, and a reason in capitals that stays the same over versions, or the code's name where there is none. Any method may end with

| code | when | what to do |
|---|---|---|
| `INVALID_ARGUMENT` | a field is wrong. A `google.rpc.BadRequest` names each, such as `spec.widths[1]` | change the request |
| `UNAVAILABLE` | the coordinator cannot be reached, is starting or is leaving | repeat what may be repeated: `Get`, `List`, `WatchJob`, and `CreateJob` with a `request_id` |
| `DEADLINE_EXCEEDED` | the client's deadline passed | as for `UNAVAILABLE` |
| `RESOURCE_EXHAUSTED` | a message is too large for gRPC | ask for smaller pages |

What else a method may end with is listed there. Who may call what, and the errors of those who may not: [security.md](../security.md).

## Pages
`List` methods answer at most `page_size` entries (0: 50; at most 1000) and a `next_page_token`, which the next request's `page_token` repeats under the same filter. It is empty on the last page.
'''


def api_pages(api, recipe_messages, recipe_enums):
    order, enums, page = [], [], 'messages.md'
    as_in_a_recipe = {field.name for name in ('JobSpec', 'PhaseSpec') for field in api.messages[PACKAGE + name].field}

    def link(type_name):
        name = type_name.removeprefix(PACKAGE)
        if not type_name.startswith(PACKAGE):
            return name.removeprefix('.google.protobuf.')
        return f'[{name}](recipe.md)' if name in recipe_messages or name in recipe_enums else f'[{name}]({page}#{name.lower()})'

    def collect(type_name):
        name = type_name.removeprefix(PACKAGE)
        if not type_name.startswith(PACKAGE) or name in recipe_messages or type_name in order:
            return
        order.append(type_name)
        for field in api.messages[type_name].field:
            collect_field(field)

    def collect_field(field):
        value = api.map_value(field)
        if value is not None:
            return collect_field(value)
        if field.type == Field.TYPE_MESSAGE:
            collect(field.type_name)
        elif field.type == Field.TYPE_ENUM and field.type_name not in enums and field.type_name.removeprefix(PACKAGE) not in recipe_enums:
            enums.append(field.type_name)

    def kind(field):
        value = api.map_value(field)
        if value is not None:
            return f'map of string to {kind(value)}'
        name = link(field.type_name) if field.type_name else Field.Type.Name(field.type).removeprefix('TYPE_').lower()
        return ('repeated ' if is_list(field) else 'optional ' if field.proto3_optional else '') + name

    lines = ['# API reference', MADE,
             'Package `bitstair.v1`, over gRPC; the files are in `proto/bitstair/v1` and, of an installed tree, in `share/bitstair/proto`. The coordinator serves reflection and `grpc.health.v1`, too. How to write a client: [clients.md](../clients.md).', ERRORS]
    for service in sorted(api.services, key=lambda service: ['Jobs', 'Fleet', 'Artifacts', 'Access'].index(service.name)):
        lines += [f'## Service {service.name}', api.line(service.name).split('docs/reference')[0].strip()]
        for method in service.method:
            # The workers' own stream is told step by step, in lines.
            between_programs = method.client_streaming and method.server_streaming
            text, errors = marked(api.of(service.name, method.name), 'Errors')
            if not text:
                raise Wrong(f'{service.name}.{method.name} has no comment')
            if between_programs:
                text = 'Between the coordinator and its workers alone; `fleet.proto` tells the exchange.'
                request, answer = method.input_type.removeprefix(PACKAGE), method.output_type.removeprefix(PACKAGE)
            else:
                collect(method.input_type)
                collect(method.output_type)
                request, answer = link(method.input_type), link(method.output_type)
            request, answer = ('stream of ' if method.client_streaming else '') + request, ('stream of ' if method.server_streaming else '') + answer
            lines += ['', f'### {service.name}.{method.name}', f'{request} → {answer}', '', cell(text)]
            if errors:
                lines.append('')
                for error in errors.split('; '):
                    code, _, when = error.partition(': ')
                    lines.append(f'- {re.sub("[A-Z_]{4,}", lambda m: f"`{m[0]}`", code)}: {cell(when)}')
        lines.append('')
    services, page = lines, ''
    lines = ['# API messages', MADE, 'What the methods of the [API](api.md) take and answer. Messages of a recipe are in the [recipe reference](recipe.md); enum values have their full names in the API.']
    for type_name in order:
        message = api.messages[type_name]
        lines += ['', f'## {message.name}']
        if api.of(message.name):
            lines += [cell(api.line(message.name)), '']
        if not message.field:
            continue
        lines += ['| field | type | meaning |', '|---|---|---|']
        for field in message.field:
            one_of = '' if field.proto3_optional or not field.HasField('oneof_index') else f' (one of `{message.oneof_decl[field.oneof_index].name}`)'
            meaning = cell(api.line(message.name, field.name))
            if not meaning and field.name in ('page_size', 'page_token', 'next_page_token'):
                meaning = '[Pages](api.md#pages)'
            if not meaning and message.name == 'StageSpec' and field.name in as_in_a_recipe:
                meaning = '[As in a recipe](recipe.md)'
            lines.append(f'| `{field.name}` | {kind(field)}{one_of} | {meaning} |')
    for type_name in enums:
        enum = api.enums[type_name]
        lines += ['', f'## {enum.name}', cell(api.line(enum.name))]
        lines += [f'- `{value.name}`' + (f': {cell(api.line(value.name))}' if api.of(value.name) else '') for value in enum.value[1:]]
    return '\n'.join(services).rstrip() + '\n', '\n'.join(lines) + '\n'


def main(arguments):
    binaries = pathlib.Path(arguments[0])
    api = Comments()
    try:
        recipe, messages, enums = recipe_page(api, binaries)
        services, rest = api_pages(api, messages, enums)
        pages = {'recipe.md': recipe, 'api.md': services, 'messages.md': rest}
    except Wrong as wrong:
        print(wrong, file=sys.stderr)
        return 1
    stale = [name for name, text in pages.items() if not HERE.joinpath(name).is_file() or HERE.joinpath(name).read_text() != text]
    if '--check' not in arguments:
        for name in stale:
            HERE.joinpath(name).write_text(pages[name])
    elif stale:
        print(f'not up to date: {", ".join(stale)} in docs/reference. PYTHONPATH={next((p for p in sys.path if p.endswith("grpc")), "")} docs/reference/generate.py {binaries} makes them anew.',
              file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
