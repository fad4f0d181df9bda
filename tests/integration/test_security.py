"""TLS, tokens, join tokens and the audit log, with the real programs: what is let in, what is refused and how, and that no secret is left lying about."""
import json
import os
import pathlib
import socket
import stat
import subprocess
import unittest

import harness
from harness import SMOKE, wait_for


class SecurityTest(harness.Case):

    def setUp(self):
        super().setUp()
        self.crt, self.key = self.certificate('server')
        for name in ('BITSTAIR_TOKEN_FILE', 'BITSTAIR_TLS_CA', 'BITSTAIR_CONTEXT'):
            self.env.pop(name, None)

    def certificate(self, name):
        crt, key = self.folder / f'{name}.crt', self.folder / f'{name}.key'
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', f'/CN={name}', '-addext',
                        'subjectAltName=DNS:localhost,IP:127.0.0.1', '-keyout', key, '-out', crt], check=True, capture_output=True)
        return crt, key

    def tls_server(self):
        server = self.server('--tls-cert', str(self.crt), '--tls-key', str(self.key))
        self.address = self.env.pop('BITSTAIR_COORDINATOR')
        self.admin = self.folder / 'server' / 'admin.token'
        return server

    def as_(self, token_file, *arguments, check=0, **more):
        who = ['--token-file', token_file] if token_file else []
        return self.cli(*arguments, '--coordinator', self.address, '--tls-ca', self.crt, *who, check=check, **more)

    def token(self, role, *arguments):
        made = self.as_(self.admin, 'token', 'create', '--role', role, '--name', role, *arguments, '--output', 'json')
        made = json.loads(made.stdout)
        file = self.folder / f'{made["token"]["name"].split("/")[1]}.token'
        file.write_text(made['secret'] + '\n')
        return file

    def tls_worker(self, name, token_file, *arguments):
        self.env['BITSTAIR_COORDINATOR'] = self.address
        try:
            return self.worker(name, '--tls-ca', str(self.crt), *(['--join-token-file', str(token_file)] if token_file else []), *arguments)
        finally:
            del self.env['BITSTAIR_COORDINATOR']

    def audit(self):
        return [json.loads(line) for line in (self.folder / 'server' / 'audit.log').read_text().splitlines()]

    def refused(self, status, method):
        return [line for line in self.audit() if line['status'] == status and line['method'] == method]

    def test_a_job_runs_over_tls_with_tokens_and_leaves_no_secret_behind(self):
        self.tls_server()
        self.assertEqual(stat.S_IMODE(os.stat(self.admin).st_mode), 0o600)
        alice, join = self.token('submitter', '--queue', 'vision'), self.token('join')
        self.tls_worker('w1', join)
        job = self.as_(alice, 'submit', SMOKE, '--set', 'queue=vision').stdout.split()[-1]
        # As she would do it: the coordinator by name.
        self.cli('config', 'set', 'lab', '--coordinator', self.address, '--tls-ca', self.crt, '--token-file', alice)
        self.assertEqual(self.cli('watch', job, timeout=180).returncode, 0)
        self.assertEqual(self.describe(job)['state'], 'SUCCEEDED')
        self.assertIn('lab', self.cli('config', 'list').stdout)
        audit = self.audit()
        self.assertTrue([line for line in audit if line['method'] == 'CreateJob' and line['who'].startswith('submitter (tokens/') and line['target'] == f'jobs/{job}'])
        self.assertTrue([line for line in audit if line['method'] == 'IssueWorkerCertificate' and line['status'] == 'OK'])
        secrets = [file.read_text().strip().rsplit('_', 1)[1].encode() for file in (alice, join, self.admin)]
        for file in self.folder.rglob('*'):
            if file.is_file() and file.suffix != '.token':
                held = [secret for secret in secrets if secret in file.read_bytes()]
                self.assertEqual(held, [], f'{file} holds a secret')
        # The worker goes on with its certificate, also after a restart; the join token is not asked for again.
        self.daemons[-1].kill()
        join.unlink()
        self.tls_worker('w1', join)
        wait_for(lambda: json.loads(self.as_(alice, 'health', '--output', 'json').stdout)['workers_ready'] == 1, 'the worker is back', 30)

    def test_people_without_the_right_token_are_refused(self):
        self.tls_server()
        viewer, vision = self.token('viewer'), self.token('submitter', '--queue', 'vision')
        self.assertIn('the fleet is shown with a token only', self.as_(None, 'health').stdout)
        self.assertIn('UNAUTHENTICATED: this coordinator needs a token', self.as_(None, 'list', check=1).stderr)
        wrong = self.folder / 'wrong.token'
        wrong.write_text('bitstair_0123456789_' + '0' * 64)
        self.assertIn('UNAUTHENTICATED: the token is not known here', self.as_(wrong, 'list', check=1).stderr)
        self.assertEqual(len(self.refused('UNAUTHENTICATED', 'ListJobs')), 2)
        self.assertIn('PERMISSION_DENIED: the role viewer does not include CreateJob', self.as_(viewer, 'submit', SMOKE, check=1).stderr)
        self.assertIn('not for default', self.as_(vision, 'submit', SMOKE, check=1).stderr)
        self.assertEqual({line['who'].split()[0] for line in self.refused('PERMISSION_DENIED', 'CreateJob')}, {'viewer', 'submitter'})
        self.assertTrue(all(line['peer'].startswith('ipv4:127.0.0.1:') for line in self.refused('PERMISSION_DENIED', 'CreateJob')))
        short = self.token('viewer', '--ttl', '1s')
        self.assertIn('expired at', wait_for(lambda: (self.as_(short, 'list', check=None).stderr or None), 'the token expires', 20, 0.2))
        self.assertIn('revoked', self.as_(self.admin, 'token', 'revoke', viewer.stem).stdout)
        self.assertIn('was revoked', self.as_(viewer, 'list', check=1).stderr)
        listed = {token['name'].split('/')[1]: token for token in json.loads(self.as_(self.admin, 'token', 'list', '--output', 'json').stdout)['tokens']}
        self.assertIn('revoke_time', listed[viewer.stem])
        self.assertNotIn('secret', json.dumps(listed))

    def test_a_path_that_leads_out_of_the_roots_is_refused(self):
        self.tls_server()
        alice, join = self.token('submitter'), self.token('join')
        root, outside = self.folder / 'root', self.folder / 'outside'
        root.mkdir()
        outside.mkdir()
        (outside / 'secret').write_text('secret')
        (root / 'way-out').symlink_to(outside)
        (root / 'set').mkdir()
        (root / 'set' / 'link').symlink_to(outside / 'secret')
        self.tls_worker('w1', join, '--data-root', str(root))

        def submit(path, check=0):
            recipe = self.folder / 'recipe.yaml'
            recipe.write_text(f'name: paths\nnetwork: resnet18\nwidths: [32, 4]\npretrain: {{epochs: 1}}\nquantized: {{epochs: 1}}\ndata: {{path: {path}}}\n')
            return self.as_(alice, 'submit', recipe, check=check)

        for path, why in ((root / 'way-out', 'leads out of the allowed roots'), (root / 'set', 'outside the allowed roots')):
            job = submit(path).stdout.split()[-1]
            self.assertEqual(self.as_(alice, 'watch', job, check=None).returncode, 1)
            self.assertIn(why, self.as_(alice, 'describe', job).stdout)
            lines = [line for line in self.refused('PERMISSION_DENIED', 'ResolveDataset') if line['target'] == f'jobs/{job}']
            self.assertEqual(len(lines), 1, lines)
            self.assertIn(str(path), lines[0]['message'])
            self.assertEqual(lines[0]['role'], 'worker')
        # A folder that another worker may allow: the job waits for one. (The command line takes `..` out; AccessTest sends one.)
        job = submit(root / '..' / 'outside').stdout.split()[-1]
        wait_for(lambda: [line for line in self.refused('PERMISSION_DENIED', 'ResolveDataset') if line['target'] == f'jobs/{job}'], 'an audit line')
        self.assertEqual(json.loads(self.as_(alice, 'describe', job, '--output', 'json').stdout)['state'], 'RESOLVING')

    def test_what_is_no_tls_or_not_ours_does_not_connect(self):
        self.tls_server()
        plain = self.cli('list', '--coordinator', self.address, check=3).stderr
        self.assertIn('is not reachable', plain)
        self.assertIn('--tls-ca', plain)
        with socket.create_connection(self.address.rsplit(':', 1)) as connection:
            connection.sendall(b'GET / HTTP/1.1\r\n\r\n')
            connection.settimeout(10)
            while connection.recv(4096):
                pass
        wait_for(lambda: len(self.refused('UNAUTHENTICATED', 'handshake')) >= 2, 'the audit log tells of both', 10)
        other, other_key = self.certificate('other')
        self.assertIn('not reachable', self.cli('list', '--coordinator', self.address, '--tls-ca', other, '--token-file', self.admin, check=3).stderr)
        # An expired certificate of a worker, signed by the right authority; and one that is signed by another.
        state = self.folder / 'server'
        subprocess.run(['openssl', 'req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', self.folder / 'w.key', '-out', self.folder / 'w.csr', '-subj', '/CN=w'],
                       check=True, capture_output=True)
        for number, (ca, ca_key, days) in enumerate([(state / 'worker-ca.crt', state / 'worker-ca.key', '-1'), (other, other_key, '1')]):
            before = len(self.refused('UNAUTHENTICATED', 'handshake'))
            crt = self.folder / f'w{number}.crt'
            subprocess.run(['openssl', 'x509', '-req', '-in', self.folder / 'w.csr', '-CA', ca, '-CAkey', ca_key, '-days', days, '-out', crt], check=True, capture_output=True)
            shown = subprocess.run(['openssl', 's_client', '-connect', self.address, '-CAfile', self.crt, '-cert', crt, '-key', self.folder / 'w.key', '-alpn', 'h2', '-quiet', '-no_ign_eof'],
                                   input=b'', capture_output=True, timeout=30)
            wait_for(lambda: len(self.refused('UNAUTHENTICATED', 'handshake')) > before, f'the audit log tells of {crt.name}: {shown.stderr[-500:]}', 10)
        self.assertIn('certificate verify failed', self.refused('UNAUTHENTICATED', 'handshake')[-1]['message'])

    def test_workers_join_once_each(self):
        self.tls_server()
        join = self.token('join')
        w1 = self.tls_worker('w1', join)
        for arguments, why in ((('w2', join), 'is spent'), (('w3', None), 'has not joined yet'), (('w4', self.admin), 'not a join token')):
            with self.assertRaises(AssertionError) as failed:
                self.tls_worker(*arguments)
            self.assertIn(why, str(failed.exception))
        self.assertEqual(len(self.refused('UNAUTHENTICATED', 'IssueWorkerCertificate')), 2)
        certificate = [token for token in json.loads(self.as_(self.admin, 'token', 'list', '--output', 'json').stdout)['tokens'] if token['role'] == 'WORKER']
        self.assertEqual([token['display_name'] for token in certificate], ['w1'])
        self.as_(self.admin, 'token', 'revoke', certificate[0]['name'])
        wait_for(lambda: 'was revoked' in pathlib.Path(w1.log).read_text(), 'the worker loses its stream', 30)
        wait_for(lambda: self.refused('UNAUTHENTICATED', 'Connect'), 'and cannot come back', 30)

    def test_flags_that_would_leave_a_door_open_are_refused(self):
        def start(program, *arguments):
            done = subprocess.run([str(harness.BIN / program), '--state-dir', str(self.folder / 'x'), *map(str, arguments)], env=self.env, capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 2, done.stderr)
            return done.stderr
        self.assertIn('--tls-cert and --tls-key', start('bitstair-server', '--listen', '0.0.0.0:0'))
        self.assertIn('unencrypted', start('bitstair-server', '--listen', '0.0.0.0:0', '--insecure', '--require-tokens'))
        self.assertIn('--insecure-metrics', start('bitstair-server', '--listen', '127.0.0.1:0', '--metrics-listen', '0.0.0.0:0'))
        self.assertIn('is not the key', start('bitstair-server', '--tls-cert', self.crt, '--tls-key', self.certificate('other')[1]))
        expired = self.folder / 'expired.crt'
        subprocess.run(['openssl', 'req', '-new', '-key', self.key, '-subj', '/CN=x', '-out', self.folder / 'x.csr'], check=True, capture_output=True)
        subprocess.run(['openssl', 'x509', '-req', '-in', self.folder / 'x.csr', '-signkey', self.key, '-days', '-1', '-out', expired], check=True, capture_output=True)
        self.assertIn('expired at', start('bitstair-server', '--tls-cert', expired, '--tls-key', self.key))
        self.assertIn('--tls-ca', start('bitstair-worker', '--coordinator', '192.0.2.9:1'))
        self.assertIn('--data-plane trusted-network', start('bitstair-worker', '--data-address', '192.0.2.9'))
        self.assertIn('not sent without encryption', start('bitstair-worker', '--join-token-file', 'x'))
        self.assertIn('--insecure-metrics', start('bitstair-worker', '--metrics-listen', '0.0.0.0:0'))
        self.assertIn('without encryption', self.cli('list', '--coordinator', '192.0.2.9:1', check=2).stderr)
        token = self.folder / 't.token'
        token.write_text('bitstair_secret_word')
        refused = self.cli('list', '--coordinator', '192.0.2.9:1', '--insecure', '--token-file', token, check=2).stderr
        self.assertIn('refusing to send a token', refused)
        self.assertNotIn('secret_word', refused)
        self.assertIn('no certificate', self.cli('list', '--coordinator', '127.0.0.1:1', '--tls-ca', token, check=2).stderr)


if __name__ == '__main__':
    unittest.main()
