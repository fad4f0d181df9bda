"""A small Debian 12 as a tar file, made once and kept in the cache of ./dev: the container images' base, and the clean machine for the package."""
import fcntl
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest


def require(*programs):
    """Skips the calling test class where it cannot run: without root, or where ./dev test --deploy could not install what it needs."""
    if os.geteuid() != 0:
        raise unittest.SkipTest('needs root')
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise unittest.SkipTest(f'not installed: {", ".join(missing)} (deploy/packages/deploy_tests.txt)')


def require_mounts():
    """Skips the calling test class where the machine lets not even root start an engine, as inside of most containers."""
    with tempfile.TemporaryDirectory() as folder:
        mount = subprocess.run(['unshare', '-m', 'mount', '-t', 'tmpfs', 'none', folder], capture_output=True, text=True)
    if mount.returncode != 0:
        raise unittest.SkipTest(f'this machine lets nobody mount: {mount.stderr.strip()}')
    if not os.access('/sys/fs/cgroup', os.W_OK):
        raise unittest.SkipTest('this machine lets nobody make cgroups')


def debian_tar():
    """The tar file. BITSTAIR_DEBIAN_MIRROR: where its packages come from; it keeps that address in its sources.list."""
    folder = pathlib.Path(os.environ['BITSTAIR_DEPS']).parent
    tar = folder / 'debian-12-root.tar'
    with open(folder / 'debian-12-root.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            part = folder / 'debian-12-root.part.tar'
            mirror = [os.environ['BITSTAIR_DEBIAN_MIRROR']] if os.environ.get('BITSTAIR_DEBIAN_MIRROR') else []
            subprocess.run(['mmdebstrap', '--quiet', '--variant=minbase', 'bookworm', str(part), *mirror], check=True)
            part.rename(tar)
    return tar
