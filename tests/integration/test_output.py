"""What commands print for programs, held against docs/schema/: real outputs of every command with --output json, and YAML that is the same."""
import json
import sys
import unittest

sys.path.append('/usr/lib/python3/dist-packages')  # Debian's jsonschema and yaml, after the virtual environment's own

import harness
from harness import ROOT, SMOKE

try:
    import jsonschema
    import yaml

    class PlainLoader(yaml.SafeLoader):
        """Times stay text, as they are in JSON."""

    PlainLoader.yaml_implicit_resolvers = {first: [entry for entry in entries if entry[0] != 'tag:yaml.org,2002:timestamp']
                                           for first, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()}
except ImportError:
    jsonschema = None

SMALL = ('--set', 'data.train_limit=1024', '--set', 'data.test_limit=500', '--set', 'ranks=1', '--set', 'pretrain.epochs=1', '--set', 'quantized.epochs=1',
         '--set', 'two_stage=false')
SCHEMAS = ROOT / 'docs' / 'schema'


@unittest.skipIf(jsonschema is None, 'python3-jsonschema or python3-yaml is not installed (deploy/packages/debian.txt)')
class OutputTest(harness.Case):

    def setUp(self):
        super().setUp()
        self.seen = set()
        self.store = {}
        for path in SCHEMAS.glob('*.json'):
            schema = json.loads(path.read_text())
            jsonschema.Draft202012Validator.check_schema(schema)
            self.store[schema['$id']] = schema

    def validate(self, name, document, told):
        schema = self.store[f'https://bitstair.dev/schema/{name}.json']
        resolver = jsonschema.RefResolver(schema['$id'], schema, store=self.store)
        errors = list(jsonschema.Draft202012Validator(schema, resolver=resolver, format_checker=jsonschema.FormatChecker()).iter_errors(document))
        self.assertEqual([f'{list(error.absolute_path)}: {error.message[:500]}' for error in errors], [], f'{told} against {name}.json')

    def json(self, schema, *arguments, check=0):
        """The command's JSON, which must fit the schema."""
        document = json.loads(self.cli(*arguments, '--output', 'json', check=check).stdout)
        self.validate(schema, document, ' '.join(map(str, arguments)))
        self.seen.add(arguments[0])
        return document

    def yaml_is_the_same(self, *arguments):
        self.assertEqual(yaml.load(self.cli(*arguments, '--output', 'yaml').stdout, PlainLoader), json.loads(self.cli(*arguments, '--output', 'json').stdout))

    def test_every_command_fits_its_schema(self):
        self.server()
        worker = self.worker(slots=1)
        self.json('health', 'health')
        self.json('validate', 'validate', SMOKE)
        self.json('validate', 'validate', SMOKE, '--set', 'ranks=0', check=2)
        self.json('plan', 'plan', SMOKE)
        self.json('preview', 'plan', SMOKE, '--when')
        self.json('preview', 'submit', SMOKE, *SMALL, '--validate-only')
        job = self.json('job', 'submit', SMOKE, *SMALL, '--set', 'guided={}')['job']
        self.json('describe', 'describe', job)
        self.json('jobs', 'list')
        self.json('top', 'top')
        done = self.json('job', 'watch', job)
        self.assertEqual(done['state'], 'SUCCEEDED')
        self.json('describe', 'describe', job, '--layers')
        self.json('top', 'top', '--once')
        students = self.submit(SMOKE, *SMALL, '--set', 'distillation={students: [2]}', '--set', 'require=top1 >= 1')
        self.wait_state(students, 'SUCCEEDED')
        self.json('describe', 'describe', students, '--layers')
        self.json('jobs', 'compare', job, students)
        for command in ('pin', 'unpin'):
            self.json('job', command, job)
        self.json('workers', 'workers')
        for command in ('cordon', 'uncordon', 'drain'):
            self.json('worker', command, 'w1')
        waiting = self.submit(SMOKE, *SMALL, '--set', 'seed=9')
        self.json('describe', 'describe', waiting)
        self.json('job', 'pause', waiting)
        self.json('job', 'resume', waiting)
        self.json('job', 'prioritize', waiting, '--priority', 'low')
        self.json('job', 'cancel', waiting, '--wait')
        self.json('job', 'retry', waiting)
        self.json('job', 'cancel', waiting)
        self.json('preview', 'plan', SMOKE, *SMALL, '--set', 'guided={}', '--when')
        self.json('gc', 'gc', '--dry-run', '--older-than', '0s')
        self.yaml_is_the_same('plan', SMOKE)
        self.yaml_is_the_same('describe', job)
        self.yaml_is_the_same('workers')
        worker.kill()
        self.json('workers', 'workers')
        final = done['stages'][-1]
        weights = self.folder / 'weights.safetensors'
        weights.write_bytes((next(self.folder.rglob(final['checkpoint_sha256']))).read_bytes())
        self.json('evaluate', 'evaluate', '--weights', weights, '--data', 'fashion_mnist', '--limit', '200')
        self.json('job', 'run', SMOKE, *SMALL, '--state-dir', self.folder / 'own', '--slots', '1', '--quiet')
        self.server('--require-tokens', name='guarded')
        health = self.json('health', 'health')
        self.assertNotIn('slots', health)
        self.env['BITSTAIR_TOKEN_FILE'] = str(self.folder / 'guarded' / 'admin.token')
        self.assertIn('slots', self.json('health', 'health'))
        token = self.json('new_token', 'token', 'create', '--role', 'submitter', '--name', 'alice', '--queue', 'vision')
        self.json('new_token', 'token', 'create', '--role', 'join', '--ttl', '5m')
        self.json('token', 'token', 'revoke', token['token']['name'])
        self.json('tokens', 'token', 'list')
        self.json('contexts', 'config', 'list')
        self.cli('config', 'set', 'here', '--coordinator', self.env['BITSTAIR_COORDINATOR'])
        self.json('contexts', 'config', 'list')
        self.yaml_is_the_same('token', 'list')
        commands = self.commands()
        self.assertEqual(commands - self.seen, {'logs', 'report', 'completion'}, 'commands without data for programs (docs/output.md)')

    def commands(self):
        names, listed = set(), False
        for line in self.cli('--help').stdout.split('\n'):
            if line.startswith('  ') and line[2:3].strip() and listed:
                names.add(line.split()[0])
            elif line.strip():
                listed = line == 'Subcommands:'
        return names


if __name__ == '__main__':
    unittest.main()
