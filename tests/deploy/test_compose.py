"""deploy/compose.yaml and compose.tls.yaml with a real Docker engine: images from the installed tree, a coordinator and two workers, a third worker that joins as a
further host with a join token, and a job from outside, over TLS and with a token, that loses a container on its way. The engine is this test's own, and no registry is asked: the images' base is made by mmdebstrap."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

import debian_root

BUILD = pathlib.Path(os.environ['BITSTAIR_BUILD'])
ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / 'deploy'
BASE = 'bitstair-test-base'
PROMETHEUS = 'bitstair-test-prometheus'
IMAGES = {'server': 'bitstair-test-server', 'worker': 'bitstair-test-worker'}
MOST_MEGABYTES = {'server': 100, 'worker': 800}  # over the base


def wait_for(condition, what, seconds=60.0, every=0.2):
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'not within {seconds:g} s: {what}')
        time.sleep(every)


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


class ComposeTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        debian_root.require('mmdebstrap', 'dockerd', 'docker', 'docker-compose')
        debian_root.require_mounts()
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix='bitstair-docker-'))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.start_engine()
        subprocess.run(['docker', 'import', str(debian_root.debian_tar()), BASE], env=cls.env, check=True, stdout=subprocess.DEVNULL)
        tree = cls.folder / 'tree'
        subprocess.run(['cmake', '--install', str(BUILD), '--strip', '--prefix', str(tree)], check=True, stdout=subprocess.DEVNULL)
        for target, image in IMAGES.items():
            # The engine has no bridge of its own, so that a build has the machine's network.
            cls.run_command('docker', 'build', '--quiet', '--network', 'host', '-f', DEPLOY / 'docker' / 'Dockerfile', '--target', target, '--build-arg', f'BASE_IMAGE={BASE}',
                            '--build-arg', 'TREE=from-dist', '-t', image, tree, timeout=400)

        # In place of the image that only a registry has: Debian's Prometheus, started as that one is.
        context = cls.folder / 'prometheus'
        context.mkdir()
        context.joinpath('Dockerfile').write_text(f'FROM {BASE}\nRUN apt-get update && apt-get install -y --no-install-recommends prometheus\n'
                                                  'ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]\n')
        cls.run_command('docker', 'build', '--quiet', '--network', 'host', '-t', PROMETHEUS, context, timeout=400)

    @classmethod
    def start_engine(cls):
        address = f'unix://{cls.folder}/docker.sock'
        # It leaves the machine's firewall and routing alone; ports on loopback go through docker-proxy.
        log = open(cls.folder / 'dockerd.log', 'wb')
        cls.addClassCleanup(log.close)
        cls.engine = subprocess.Popen(['dockerd', '--host', address, '--data-root', str(cls.folder / 'data'), '--exec-root', str(cls.folder / 'exec'),
                                       '--pidfile', str(cls.folder / 'dockerd.pid'), '--bridge', 'none', '--iptables=false', '--ip-forward=false', '--ip-masq=false'],
                                      stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        cls.addClassCleanup(cls.stop_engine)
        cls.env = {**{name: value for name, value in os.environ.items() if not name.startswith(('BITSTAIR_', 'DOCKER_', 'COMPOSE_'))},
                   'PATH': '/usr/sbin:/usr/bin:/sbin:/bin',  # Debian's docker: a newer one elsewhere may lack BuildKit
                   'DOCKER_HOST': address, 'DOCKER_BUILDKIT': '1', 'HOME': str(cls.folder), 'BITSTAIR_SERVER_IMAGE': IMAGES['server'], 'BITSTAIR_WORKER_IMAGE': IMAGES['worker'],
                   'BITSTAIR_PROMETHEUS_IMAGE': PROMETHEUS}

        def serves():
            if cls.engine.poll() is not None:
                raise AssertionError(f'dockerd ended:\n{(cls.folder / "dockerd.log").read_text()[-3000:]}')
            return subprocess.run(['docker', 'version'], env=cls.env, capture_output=True, check=False).returncode == 0
        wait_for(serves, 'dockerd serves')

    @classmethod
    def stop_engine(cls):
        # What tests that failed left: the engine's end does not end its containers' networks.
        containers = subprocess.run(['docker', 'ps', '-aq'], env=cls.env, capture_output=True, text=True, check=False).stdout.split()
        if containers:
            subprocess.run(['docker', 'rm', '-fv', *containers], env=cls.env, check=False, stdout=subprocess.DEVNULL)
        subprocess.run(['docker', 'network', 'prune', '-f'], env=cls.env, check=False, stdout=subprocess.DEVNULL)
        cls.engine.send_signal(signal.SIGTERM)
        try:
            cls.engine.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(cls.engine.pid, signal.SIGKILL)
            cls.engine.wait(10)
        mounts = [line.split()[1] for line in pathlib.Path('/proc/mounts').read_text().splitlines() if line.split()[1].startswith(f'{cls.folder}/')]
        for mount in reversed(mounts):
            subprocess.run(['umount', '-l', mount], check=True)

    @classmethod
    def run_command(cls, *command, env=None, timeout=120):
        done = subprocess.run([str(part) for part in command], env={**cls.env, **(env or {})}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        if done.returncode != 0:
            raise AssertionError(f'{" ".join(map(str, command))}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}')
        return done.stdout

    def certificate(self, *names):
        folder = self.folder / 'tls'
        folder.mkdir()
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=coordinator', '-addext',
                        'subjectAltName=IP:127.0.0.1,' + ','.join(f'DNS:{name}' for name in names), '-keyout', folder / 'server.key', '-out', folder / 'server.crt'],
                       check=True, capture_output=True)
        shutil.copy(folder / 'server.crt', folder / 'ca.crt')
        os.chown(folder / 'server.key', 7420, 7420)
        folder.chmod(0o755)
        return folder

    def inspect(self, *names):
        return json.loads(self.run_command('docker', 'inspect', *names))

    def container(self, project, service):
        return self.run_command('docker', 'ps', '-aq', '--filter', f'label=com.docker.compose.project={project}', '--filter', f'label=com.docker.compose.service={service}').strip()

    def tell_logs(self):
        for name in self.run_command('docker', 'ps', '-a', '--format', '{{.Names}}').split():
            tail = subprocess.run(['docker', 'logs', '--tail', '40', name], env=self.env, capture_output=True, text=True, check=False)
            print(f'--- {name}\n{tail.stdout}{tail.stderr}')

    def run(self, result=None):
        before = len(result.failures) + len(result.errors) if result else 0
        done = super().run(result)
        if result and len(result.failures) + len(result.errors) > before:
            self.tell_logs()
        for project, files in (('further', ['compose.worker.yaml']), ('main', ['compose.yaml', 'compose.own-grafana.yaml', 'compose.tls.yaml'])):
            arguments = [part for file in files for part in ('-f', str(DEPLOY / file))]
            self.run_command('docker-compose', '-p', project, *arguments, 'down', '-v', env={'BITSTAIR_COORDINATOR': 'none:1', 'BITSTAIR_DATA_ADDRESS': '127.0.0.1', 'BITSTAIR_TLS': '/tmp'})
        return done

    def test_images_are_small_and_hold_no_compiler_and_no_root(self):
        base = self.inspect(BASE)[0]['Size']
        for target, image in IMAGES.items():
            size = (self.inspect(image)[0]['Size'] - base) / 1e6
            print(f'{target}: {size:.0f} MB over its base of {base / 1e6:.0f} MB', flush=True)
            self.assertLess(size, MOST_MEGABYTES[target])
            look = 'id -u; for c in cc gcc g++ clang ld as make python3; do command -v $c; done; find / -xdev -perm /6000 -user bitstair 2>/dev/null; true'
            self.assertEqual(self.run_command('docker', 'run', '--rm', '--network', 'none', '--entrypoint', 'bash', image, '-c', look).split(), ['7420'])

    def test_a_job_survives_the_loss_of_a_container(self):
        port, metrics_port, worker_metrics_port = free_port(), free_port(), free_port()
        tls = self.certificate('coordinator', 'localhost')
        outside = {'BITSTAIR_PROMETHEUS_PORT': str(free_port()), 'BITSTAIR_TLS': str(tls), 'BITSTAIR_TLS_CA': str(tls / 'ca.crt'), 'BITSTAIR_PORT': str(port), 'BITSTAIR_METRICS_PORT': str(metrics_port), 'BITSTAIR_COORDINATOR': f'127.0.0.1:{port}', 'BITSTAIR_SLOTS': '1', 'NO_COLOR': '1'}
        # Grafana's image is in a registry alone: its profile is not asked for.
        main = ['docker-compose', '-p', 'main', '-f', DEPLOY / 'compose.yaml', '-f', DEPLOY / 'compose.own-grafana.yaml', '-f', DEPLOY / 'compose.tls.yaml']
        services = ['coordinator', 'join', 'prometheus', 'worker-1', 'worker-2']
        self.assertEqual(sorted(self.run_command(*main, 'config', '--services', env=outside).split()), sorted([*services, 'grafana']))
        self.run_command(*main, 'up', '-d', '--no-build', env=outside)
        self.assertEqual(sorted(service for service in [*services, 'grafana'] if self.container('main', service)), services)
        network = self.inspect('main_default')[0]
        # Where another engine has closed the machine's FORWARD chain, this one's containers may reach each other all the same.
        rule = ['FORWARD', '-i', f'br-{network["Id"][:12]}', '-o', f'br-{network["Id"][:12]}', '-j', 'ACCEPT']
        self.run_command('iptables', '-w', '-I', *rule)
        self.addCleanup(self.run_command, 'iptables', '-w', '-D', *rule)
        def token(role):
            return self.run_command(*main, 'exec', '-T', 'coordinator', 'bitstair', 'token', 'create', '--role', role, '--name', role, env=outside).strip()
        outside['BITSTAIR_TOKEN_FILE'] = str(self.folder / 'alice.token')
        (self.folder / 'alice.token').write_text(token('submitter'))
        gateway = network['IPAM']['Config'][0]['Gateway']
        self.run_command('docker-compose', '-p', 'further', '-f', DEPLOY / 'compose.worker.yaml', 'up', '-d', '--no-build',
                         env={**outside, 'BITSTAIR_JOIN_TOKEN': token('join'), 'BITSTAIR_DATA_ADDRESS': gateway, 'BITSTAIR_CORES': '2/2', 'BITSTAIR_WORKER_METRICS_PORT': str(worker_metrics_port)})

        def bitstair(*arguments):
            return self.run_command(BUILD / 'bin' / 'bitstair', *arguments, env=outside)

        def health():
            return json.loads(bitstair('health', '--output', 'json'))
        self.assertEqual(wait_for(lambda: health()['workers_ready'] == 3 and health(), 'three workers are ready')['slots'], 3)
        containers = {'coordinator': self.container('main', 'coordinator'), 'worker-1': self.container('main', 'worker-1'), 'worker-2': self.container('main', 'worker-2'),
                      'further': self.container('further', 'worker')}
        wait_for(lambda: all(c['State']['Health']['Status'] == 'healthy' for c in self.inspect(*containers.values())), 'all containers are healthy')

        def scraped():
            done = subprocess.run([*map(str, main), 'exec', '-T', 'prometheus', 'promtool', 'query', 'instant', 'http://localhost:9090', 'up == 1'], env={**self.env, **outside},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            return set(re.findall(r'(?:worker|instance)="([^"]+)"', done.stdout))
        # The workers by way of the coordinator; the further host's is in another network.
        wait_for(lambda: {'coordinator:7421', 'worker-1', 'worker-2'} <= scraped(), 'Prometheus scrapes the coordinator and its workers')

        job = bitstair('submit', ROOT / 'recipes' / 'smoke.yaml', '--set', 'checkpoint.every_epoch=true').split()[-1]

        def described():
            return json.loads(bitstair('describe', job, '--output', 'json'))

        def running():
            stages = [stage for stage in described()['stages'] if stage['state'] == 'RUNNING' and all(place.get('pid') for place in stage['placement'])]
            return stages and stages[0]
        stage = wait_for(running, 'a stage runs', 90)
        hosts = {place['worker'] for place in stage['placement']}
        self.assertEqual(len(hosts), 2, 'the gang spans two containers')
        lost = sorted(hosts & containers.keys())[0]
        self.run_command('docker', 'kill', containers.pop(lost))

        def ended():
            value = described()
            return value['state'] in ('SUCCEEDED', 'FAILED', 'CANCELLED') and value
        done = wait_for(ended, 'the job ends', 300, 0.5)
        self.assertEqual(done['state'], 'SUCCEEDED', json.dumps(done)[-3000:])
        again = [s for s in done['stages'] if s['name'] == stage['name']][0]
        self.assertGreater(again['attempts'], 1, json.dumps(again))
        self.assertNotIn(lost, {place['worker'] for s in done['stages'] for place in s['placement']})

        # SIGTERM ends each of them cleanly.
        self.run_command('docker', 'stop', '-t', '60', *containers.values(), timeout=300)
        self.assertEqual({name: self.inspect(container)[0]['State']['ExitCode'] for name, container in containers.items()}, dict.fromkeys(containers, 0))


if __name__ == '__main__':
    unittest.main()
