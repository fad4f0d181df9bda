"""Jobs on GPU slots, summed through NCCL, on a machine that has a GPU: .ci/check_gpu starts it with the programs of the preset `cuda`.

A rank needs a GPU slot of its own. Where there is one GPU, two workers offer it twice, which NCCL allows from 2.30 on if it is told so."""
import ctypes
import json
import os
import unittest

import harness
from harness import BIN, SMOKE

SHARED = {'NCCL_MULTI_RANK_GPU_ENABLE': '1'}
CORES = min(4, len(os.sched_getaffinity(0)) // 2)  # of a worker


def gpus():
    try:
        driver = ctypes.CDLL('libcuda.so.1')
    except OSError:
        return 0
    count = ctypes.c_int(0)
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


@unittest.skipUnless(gpus() > 0, 'this machine has no GPU')
@unittest.skipUnless((BIN / 'libbitstair_nccl.so').exists(), 'the programs are not of the preset cuda')
class GpuTest(harness.Case):

    def two_workers(self, slots, **crash):
        """Each with a GPU slot (slots=None) or a CPU slot (slots=1), and as many threads."""
        cores = sorted(os.sched_getaffinity(0))
        for i in range(2):
            self.worker(f'{"gpu" if slots is None else "cpu"}-{i}', slots=slots, env={**SHARED, **crash}, cores=set(cores[i * CORES:(i + 1) * CORES]))

    def trained(self, *arguments):
        self.job = self.submit(SMOKE, '--no-share', '--set', 'environment={NCCL_DEBUG: INFO}', *arguments)
        return self.wait_state(self.job, 'SUCCEEDED')

    def assert_same_bits(self, *arguments):
        """On two GPU slots as on two CPU slots."""
        self.server(name='cpu')
        self.two_workers(1)
        want = self.trained(*arguments)
        for daemon in self.daemons:
            daemon.kill()
        self.server(name='gpu')
        self.two_workers(None)
        got = self.trained(*arguments)
        self.assertEqual(harness.digests(got), harness.digests(want))
        return got

    def test_a_gpu_is_found_and_trains(self):
        self.server()
        self.worker(slots=None)
        worker = json.loads(self.cli('workers', '--output', 'json').stdout)['workers'][0]
        self.assertEqual(len(worker['slots']), gpus())
        for slot in worker['slots']:
            self.assertEqual(slot['kind'], 'GPU')
            self.assertRegex(slot['device'], 'NVIDIA')
            self.assertGreater(int(slot['memory_bytes']), 1 << 30)
        print(self.cli('workers').stdout)
        done = self.trained('--set', 'ranks=1')
        self.assertGreater(done['stages'][-1]['top1'], 70)

    def test_gradients_through_nccl_have_the_bits_of_gloo(self):
        self.assert_same_bits()
        self.assertIn('NCCL INFO', self.cli('logs', self.job).stdout)

    def test_fixed_shards_through_nccl_have_the_bits_of_gloo(self):
        self.assert_same_bits('--set', 'reduction=fixed_shards', '--set', 'shards=4')

    def test_a_split_pair_sends_its_features_through_nccl(self):
        guided = ('--set', 'guided={}', '--set', 'ranks=1')
        split = self.assert_same_bits(*guided, '--set', 'placement=split', '--set', 'checkpoint.every_epoch=false')
        self.assertEqual(len(split['stages'][-1]['placement']), 2)

    def test_a_killed_rank_ends_its_gang_and_the_job_goes_on_bit_for_bit(self):
        self.server(name='calm')
        self.two_workers(None)
        want = self.trained('--set', 'checkpoint.every_steps=3')
        for daemon in self.daemons:
            daemon.kill()
        self.server(name='crash')
        self.two_workers(None, BITSTAIR_TEST_CRASH='W4A4:1:10:1')
        got = self.trained('--set', 'checkpoint.every_steps=3')
        self.assertEqual(got['stages'][-1]['generation'], 2)
        self.assertEqual(harness.digests(got), harness.digests(want))


if __name__ == '__main__':
    unittest.main(verbosity=2)
