"""The dashboards, rules and alerts against a real Prometheus that scraped a real run with a failure in it."""
import importlib.util
import json
import math
import re
import socket
import subprocess
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import harness
from harness import SMOKE, wait_for

DEPLOY = harness.ROOT / 'deploy'
DASHBOARDS = sorted((DEPLOY / 'grafana' / 'dashboards').glob('*.json'))
RULES = DEPLOY / 'prometheus' / 'rules' / 'bitstair.yaml'
SMALL = ('--set', 'data.train_limit=2048', '--set', 'data.test_limit=500')


def metric_names(expression):
    return set(re.findall(r'\bbitstair_[a-z0-9_]+', expression))


def documented():
    names = set(re.findall(r'^\| `(bitstair_[a-z0-9_]+)`', (harness.ROOT / 'docs' / 'metrics.md').read_text(), re.MULTILINE))
    return names | {name + suffix for name in names for suffix in ('_bucket', '_sum', '_count')}


def panels():
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        for panel in board['panels']:
            yield board, panel


def unknown(board, again, path=''):
    """Places of a dashboard that are not the same after Grafana's model of it was made and written."""
    if isinstance(board, dict) and isinstance(again, dict):
        for key, value in board.items():
            if key in again:
                yield from unknown(value, again[key], f'{path}/{key}')
            else:
                yield f'{path}/{key}'
    elif isinstance(board, list) and isinstance(again, list):
        if len(board) != len(again):
            yield f'{path}: {len(board)} of them, not {len(again)}'
        else:
            for number, (value, other) in enumerate(zip(board, again)):
                yield from unknown(value, other, f'{path}/{number}')
    elif board != again:
        yield f'{path}: {board} became {again}'


class DashboardFilesTest(unittest.TestCase):

    def test_files_are_what_the_program_writes(self):
        spec = importlib.util.spec_from_file_location('make_dashboards', DEPLOY / 'grafana' / 'make_dashboards.py')
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        texts = program.texts()
        self.assertEqual({file.name for file in DASHBOARDS}, set(texts))
        for file in DASHBOARDS:
            self.assertEqual(file.read_text(), texts[file.name], f'{file.name}: run deploy/grafana/make_dashboards.py')

    def test_dashboards_have_what_grafana_asks_for(self):
        self.assertEqual(len(DASHBOARDS), 3)
        self.assertEqual(len({json.loads(file.read_text())['uid'] for file in DASHBOARDS}), 3)
        for file in DASHBOARDS:
            board = json.loads(file.read_text())
            self.assertTrue(board['title'].startswith('Bitstair'))
            self.assertGreaterEqual(board['schemaVersion'], 37)
            variables = {variable['name'] for variable in board['templating']['list']}
            self.assertIn('datasource', variables)
            self.assertEqual(len({panel['id'] for panel in board['panels']}), len(board['panels']))
            cells = set()
            for panel in board['panels']:
                at = panel['gridPos']
                self.assertLessEqual(at['x'] + at['w'], 24, panel['title'])
                own = {(x, y) for x in range(at['x'], at['x'] + at['w']) for y in range(at['y'], at['y'] + at['h'])}
                self.assertFalse(own & cells, f'{panel["title"]} lies over another panel')
                cells |= own
                self.assertTrue(panel['description'], panel['title'])
                self.assertIn(panel['type'], ('timeseries', 'stat', 'bargauge', 'table'))
                self.assertEqual(len({target['refId'] for target in panel['targets']}), len(panel['targets']))
                for target in panel['targets']:
                    used = set(re.findall(r'\$\{?([a-z_]+)', target['expr'])) - {'__rate_interval'}
                    self.assertLessEqual(used, variables, target['expr'])

    def test_dashboards_are_valid_by_grafanas_schema(self):
        # Grafana's own SDK is generated from the schema of the Grafana that compose.yaml runs. What the schema does not know is lost on the way there and back.
        register_default_plugins()
        for file in DASHBOARDS:
            board = json.loads(file.read_text())
            again = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
            self.assertEqual(list(unknown(board, again)), [], file.name)
        wrong = json.loads(DASHBOARDS[0].read_text())
        wrong['panels'][0]['gridPos']['width'] = 4
        self.assertEqual(list(unknown(wrong, json.loads(JSONEncoder().encode(Dashboard.from_json(wrong))))), ['/panels/0/gridPos/width'])

    def test_every_metric_that_is_named_exists(self):
        known = documented()
        self.assertGreater(len(known), 30)
        texts = {f'{board["title"]}/{panel["title"]}': target['expr'] for board, panel in panels() for target in panel['targets']}
        texts['rules'] = ''.join(line for line in RULES.read_text().splitlines(True) if 'expr:' in line)
        for where, text in texts.items():
            self.assertEqual(metric_names(text) - known, set(), where)

    def test_every_alert_has_its_entry_in_the_runbook(self):
        runbook = (harness.ROOT / 'docs' / 'runbook.md').read_text()
        alerts = re.findall(r'- alert: (\w+)', RULES.read_text())
        self.assertGreater(len(alerts), 8)
        self.assertEqual(set(re.findall(r'^## (\w+)$', runbook, re.MULTILINE)), set(alerts))
        tested = (RULES.parent / 'tests' / 'bitstair_test.yaml').read_text()
        for alert in alerts:
            self.assertIn(f'docs/runbook.md#{alert.lower()}', RULES.read_text())
            self.assertRegex(tested, rf'alertname: {alert}\n\s+exp_alerts: \[\{{', f'{alert}: no test in which it fires')

    def test_rules(self):
        for command in (('check', 'rules', RULES), ('test', 'rules', RULES.parent / 'tests' / 'bitstair_test.yaml')):
            done = subprocess.run(['promtool', *map(str, command)], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class DashboardsTest(harness.Case):

    def prometheus(self, server):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        metrics = server.ready['metrics_address']
        config = self.folder / 'prometheus.yml'
        config.write_text(f"""
global: {{scrape_interval: 500ms, evaluation_interval: 1s}}
rule_files: ['{RULES}']
scrape_configs:
  - job_name: bitstair-server
    honor_labels: true
    static_configs: [{{targets: ['{metrics}']}}]
  - job_name: bitstair-worker
    honor_labels: true
    http_sd_configs: [{{url: 'http://{metrics}/sd/workers', refresh_interval: 1s}}]
""")
        with open(self.folder / 'prometheus.log', 'wb') as log:
            process = subprocess.Popen(['prometheus', f'--config.file={config}', f'--storage.tsdb.path={self.folder / "tsdb"}', f'--web.listen-address=127.0.0.1:{port}'],
                                       stdout=log, stderr=log, env=self.env)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.api = f'http://127.0.0.1:{port}/api/v1/'
        wait_for(lambda: len(self.ask('targets?state=active')['activeTargets']) == 3, 'Prometheus finds the coordinator and both workers', 60)

    def ask(self, path, **parameters):
        query = '?' + urllib.parse.urlencode(parameters) if parameters else ''
        try:
            with urllib.request.urlopen(self.api + path + query, timeout=20) as answer:
                return json.load(answer)['data']
        except urllib.error.HTTPError as error:
            if error.code == 503:  # it starts
                return {'activeTargets': []}
            self.fail(f'{parameters or path}: {error.read().decode()}')
        except OSError:
            return {'activeTargets': []}

    def test_no_panel_is_empty_over_a_real_run(self):
        server = self.server()
        self.worker('w1', env={'BITSTAIR_TEST_CRASH': 'W4A4:0:3:1'})
        self.worker('w2', env={'BITSTAIR_TEST_CRASH': 'W4A4:0:3:1'})
        self.prometheus(server)
        begin = time.time()
        # 2 ranks, guided, with gates, a failure, and a stage whose duration is known from before.
        guided = ('--set', 'guided={}', '--set', 'require=top1 >= 101', '--set', 'on_gate_failure=go_on')
        self.wait_state(self.submit(SMOKE, *SMALL, *guided), 'SUCCEEDED')
        job = self.submit(SMOKE, *SMALL, *guided, '--no-share', '--set', 'quantized.epochs=4')
        done = self.wait_state(job, 'SUCCEEDED')
        self.assertEqual([s['generation'] for s in done['stages']], [1, 1, 2], 'one failure')
        self.cli('describe', 'nobody-1234', check=2)
        time.sleep(3)
        end = time.time()
        variables = {}
        checked = 0
        for board, panel in panels():
            for variable in board['templating']['list']:
                if variable['type'] != 'query' or variable['name'] in variables:
                    continue
                series, label = re.fullmatch(r'label_values\((.+), (\w+)\)', variable['query']['query']).groups()
                values = self.ask(f'label/{label}/values', **{'match[]': series, 'start': begin, 'end': end})
                self.assertIn(job, values, f'${variable["name"]}')
                variables[variable['name']] = job
            for target in panel['targets']:
                expression = target['expr'].replace('$__rate_interval', '10s')
                for name, value in variables.items():
                    expression = expression.replace(f'${name}', value)
                found = self.ask('query_range', query=expression, start=begin, end=end, step=1)['result']
                finite = [v for series in found for _, v in series['values'] if math.isfinite(float(v))]
                self.assertTrue(finite, f'{board["title"]}, panel {panel["title"]}: {expression} is empty')
                for series in found:
                    for label in re.findall(r'\{\{(\w+)\}\}', target['legendFormat']):
                        self.assertIn(label, series['metric'], f'{panel["title"]}: {target["legendFormat"]}')
                checked += 1
        self.assertGreater(checked, 40)
        rules = [rule for group in self.ask('rules')['groups'] for rule in group['rules']]
        self.assertEqual({rule['health'] for rule in rules}, {'ok'}, [rule.get('lastError') for rule in rules])
        firing = self.ask('query', query='ALERTS{alertname="BitstairGateMissed"}')['result']
        self.assertTrue(firing, 'both jobs have missed their gates')


if __name__ == '__main__':
    unittest.main()
