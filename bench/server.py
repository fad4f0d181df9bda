#!/usr/bin/env python3
"""The coordinator's API under load: the real server and its store on a real file system, client and server on this machine.

create_job: CreateJob of a 3-stage recipe, 64 in flight, durable when answered; meanwhile 500 watchers, each on a job of its own that changes once a second. Then
jobs are created until 100,000 are stored, ListJobs is timed, the server is killed and started again. Beside it, what one fsync takes on that file system.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

from peers import driver, environment
from peers.participant import Failure

BIN = environment.ROOT / 'build' / environment.PRESET / 'bin'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--folder', type=pathlib.Path, default=environment.ROOT / 'build', help='on the file system to measure; default: %(default)s')
    parser.add_argument('--seconds', type=driver.positive, default=60, help='of CreateJob; default: %(default)s')
    parser.add_argument('--watchers', type=driver.positive, default=500, help='default: %(default)s')
    parser.add_argument('--jobs', type=driver.positive, default=100_000, help='stored for ListJobs and the start; default: %(default)s')
    parser.add_argument('--json-out', metavar='FILE', type=pathlib.Path, help='write the result lines to FILE, too')
    arguments = parser.parse_args()
    report = driver.Report(arguments.json_out)
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix='bench-server-') as folder:
        folder = pathlib.Path(folder)
        report.line('server/fsync_ms', 1e3 * fsync_seconds(folder), 'ms')
        server, address, _ = start(folder)
        try:
            created = client('create', address, '--seconds', arguments.seconds, '--watchers', arguments.watchers)
            report.line('server/create_job_per_second', created['created'] / created['seconds'], 'jobs/s')
            report.line('server/create_job_p50_ms', created['p50_ms'], 'ms')
            report.line('server/create_job_p99_ms', created['p99_ms'], 'ms')
            report.line('server/create_job_failed', created['failed'], 'jobs')
            report.line('server/watch_changes_per_second', created['changes'] / created['seconds'], 'changes/s')
            report.line('server/watch_changes_lost', created['changes_lost'], 'changes')
            report.line('server/watch_lag_p50_ms', created['watch_lag_p50_ms'], 'ms')
            report.line('server/watch_lag_p99_ms', created['watch_lag_p99_ms'], 'ms')
            stored = created['created'] + arguments.watchers
            if stored < arguments.jobs:
                stored += client('create', address, '--seconds', 3600, '--jobs', arguments.jobs - stored)['created']
            report.line('server/jobs_stored', stored, 'jobs')
            name = f'at_{arguments.jobs // 1000}k'
            report.line(f'server/list_jobs_p99_ms_{name}', client('list', address)['p99_ms'], 'ms')
            report.line(f'server/memory_mb_{name}', resident(server.pid) / 1e6, 'MB')
            server.kill()
            server.wait()
            server, address, seconds = start(folder)
            report.line(f'server/start_s_{name}', seconds, 's')
        finally:
            server.kill()
            server.wait()


def fsync_seconds(folder):
    """Of a small appended write, median of 100."""
    seconds = []
    with open(folder / 'fsync', 'wb') as file:
        for _ in range(100):
            file.write(b'x' * 4096)
            file.flush()
            begin = time.perf_counter()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def start(folder):
    """The server, its address, and the seconds until it serves."""
    read, write = os.pipe()
    begin = time.perf_counter()
    server = subprocess.Popen([BIN / 'bitstair-server', '--listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0', '--state-dir', folder / 'state', '--log-level', 'warn',
                               '--ready-fd', str(write)], pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as ready:
        line = ready.readline()
    if not line:
        raise Failure(f'bitstair-server ended with exit code {server.wait()}')
    return server, json.loads(line)['address'], time.perf_counter() - begin


def client(mode, address, *options):
    done = subprocess.run([BIN / 'bench_server', mode, '--address', address, *map(str, options)], stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise Failure(f'bench_server ended with exit code {done.returncode}')
    return json.loads(done.stdout)


def resident(pid):
    """Bytes."""
    return int(pathlib.Path(f'/proc/{pid}/statm').read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE')


if __name__ == '__main__':
    driver.run(main)
