"""Where the participants come from and what they run in: the dependency folder, the CUDA stand-ins, and one environment for all."""
import os
import pathlib
import subprocess
import sys

from peers.participant import Failure

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PRESET = os.environ.get('BITSTAIR_PRESET', 'dev')
DEPS = pathlib.Path(os.environ.get('BITSTAIR_DEPS', pathlib.Path.home() / '.cache/bitstair/deps'))
PYTHON = DEPS / 'venv/bin/python'
SCRATCH = ROOT / 'build/bench'
OURS = str(ROOT / 'build' / PRESET / 'bin/bench_step')

# What a shell may have set for one participant and not for another. Without them an idle thread of OpenMP spins for some milliseconds and then sleeps.
UNSET = ('PYTHON', 'OMP_', 'GOMP_', 'KMP_', 'MKL_', 'ONEDNN_', 'DNNL_', 'TORCH', 'BREVITAS_', 'MALLOC_', 'GLIBC_TUNABLES', 'LD_PRELOAD')


def cores():
    return len(os.sched_getaffinity(0))


def environment():
    """The same for ours and for the peers."""
    return {key: value for key, value in os.environ.items() if not key.startswith(UNSET)}


def peer_environment():
    """Adds the Python half of the LibTorch wheel. Compiled Python and kernels are kept in the build folder, so a second run starts faster."""
    libraries = [str(stand_ins()), *filter(None, [os.environ.get('LD_LIBRARY_PATH')])]
    return {**environment(), 'PYTHONPATH': ':'.join(str(DEPS / group) for group in ('libtorch', 'python', 'bench')), 'LD_LIBRARY_PATH': ':'.join(libraries),
            'PYTHONPYCACHEPREFIX': str(SCRATCH / 'pycache'), 'TORCHINDUCTOR_CACHE_DIR': str(SCRATCH / 'inductor')}


def stand_ins():
    """The folder that lets `import torch` do without CUDA's libraries: the build's, else one of our own, made anew when the wheel is newer."""
    wheels = DEPS / 'libtorch/.wheels'
    if not PYTHON.exists() or not wheels.exists():
        raise Failure(f'no LibTorch in {DEPS}: run ./dev setup')
    built, own = ROOT / 'build' / PRESET / 'tests/reference/cuda_stand_ins', SCRATCH / 'cuda_stand_ins'
    if (built / 'complete').exists():
        return built
    if not (own / 'complete').exists() or (own / 'complete').stat().st_mtime < wheels.stat().st_mtime:
        print("making stand-ins for the wheel's CUDA libraries", file=sys.stderr)
        subprocess.run([PYTHON, ROOT / 'tests/reference/cuda_stand_ins.py', DEPS / 'libtorch', own], check=True, stdout=sys.stderr)
    return own


def python_header():
    """What torch.compile builds its kernels with."""
    command = [PYTHON, '-c', 'import sysconfig; print(sysconfig.get_path("include"))']
    return pathlib.Path(subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip(), 'Python.h')
