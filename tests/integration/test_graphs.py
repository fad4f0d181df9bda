"""Jobs whose stages branch, gates, sweeps, what would happen to a recipe, and garbage collection."""
import json
import unittest

import harness
from harness import SMOKE

GRAPH = """
name: graph
network: convnet28
data: {name: fashion_mnist, train_limit: 1024, test_limit: 500}
batch_size: 128
stages:
  - {name: full, weight_bits: 32, epochs: 2, learning_rate: 0.05}
  - {name: four, parent: full, weight_bits: 4, epochs: 1, require: top1_drop <= -50}
  - {name: two, parent: four, weight_bits: 2, epochs: 1}
  - {name: eight, parent: full, weight_bits: 8, epochs: 1, require: top1 >= 1}
  - {name: three, parent: eight, weight_bits: 3, epochs: 1, require: top1 >= 101, on_gate_failure: go_on}
"""
SMALL = ('--set', 'data.train_limit=1024', '--set', 'data.test_limit=500', '--set', 'ranks=1', '--set', 'pretrain.epochs=1', '--set', 'two_stage=false',
         '--set', 'quantized.epochs=1')


class GraphsTest(harness.Case):

    def test_a_branch_ends_at_its_gate_and_the_other_goes_on(self):
        self.server()
        self.worker()
        recipe = self.folder / 'graph.yaml'
        recipe.write_text(GRAPH)
        plan = self.cli('plan', recipe).stdout
        self.assertIn('top1_drop <= -50, else stops', plan)
        self.assertIn('"full" -> "eight"', self.cli('plan', recipe, '--output', 'dot').stdout)
        self.assertIn('no job has used this data set so far', self.cli('plan', recipe, '--when').stdout)
        job = self.submit(recipe)
        watched = self.cli('watch', job, check=1)
        self.assertIn('four: done, but top1_drop', watched.stderr)
        done = self.wait_state(job, 'FAILED')
        states = {s['name']: s['state'] for s in done['stages']}
        self.assertEqual(states, {'full': 'SUCCEEDED', 'four': 'FAILED', 'two': 'CANCELLED', 'eight': 'SUCCEEDED', 'three': 'SUCCEEDED'})
        by_name = {s['name']: s for s in done['stages']}
        self.assertRegex(by_name['four']['gate'], r'^top1_drop -?[0-9.]+ <= -50: missed$')
        self.assertRegex(by_name['eight']['gate'], r'^top1 [0-9.]+ >= 1: reached$')
        self.assertIn('missed', by_name['three']['gate'])
        self.assertIn('stage four failed: requires top1_drop <= -50', done['reason'])
        self.assertTrue(by_name['four']['checkpoint_sha256'], 'it was trained to its end')
        # What is done is known, with the time and the memory that the rest takes.
        when = json.loads(self.cli('plan', recipe, '--when', '--output', 'json').stdout)
        self.assertEqual({s['name']: s['sharing'] for s in when['stages']},
                         {'full': 'reused', 'four': 'reused', 'eight': 'reused', 'three': 'reused', 'two': 'none'})
        self.assertEqual({s['name']: s['state'] for s in when['stages']}['two'], 'CANCELLED', 'its parent is known to miss its gate')
        self.assertGreater(when['slot_seconds_saved'], 0)
        longer = self.folder / 'longer.yaml'
        longer.write_text(GRAPH.replace('weight_bits: 8, epochs: 1', 'weight_bits: 8, epochs: 2'))
        when = json.loads(self.cli('plan', longer, '--when', '--output', 'json').stdout)
        eight = [s for s in when['stages'] if s['name'] == 'eight'][0]
        self.assertEqual(eight['sharing'], 'none')
        self.assertEqual([p['worker'] for p in eight['placement']], ['w1'])
        self.assertIn('expected_start_time', eight)
        self.assertIn('expected_end_time', when)
        self.assertGreater(eight['memory_bytes'], 10_000_000)
        self.assertIn('ends at about', self.cli('plan', longer, '--when').stdout)

    def test_a_sweep_is_one_job_and_trains_what_is_common_once(self):
        self.server()
        self.worker()
        sweep = self.submit(SMOKE, *SMALL, '--set', 'sweep.seed=[1, 2]', '--set', 'sweep.guided=[null, {}]')
        done = self.wait_state(sweep, 'SUCCEEDED')
        self.assertEqual({s['name'] for s in done['stages']}, {'W32A32.seed-1', 'W32A32.seed-2', 'W4A4.guided-none.seed-1', 'W4A4.guided-none.seed-2',
                                                               'W4A4.guided-on.seed-1', 'W4A4.guided-on.seed-2'})
        parents = {s['name']: s['parent'] for s in done['stages']}
        self.assertEqual(parents['W4A4.guided-on.seed-2'], 'W32A32.seed-2')
        self.assertEqual(len({s['checkpoint_sha256'] for s in done['stages']}), 6)
        # A variant by itself is the very same training, also without sharing.
        alone = self.wait_state(self.submit(SMOKE, *SMALL, '--set', 'seed=2', '--set', 'guided={}'), 'SUCCEEDED')
        self.assertEqual([s['sharing'] for s in alone['stages']], ['reused', 'reused'])
        anew = self.wait_state(self.submit(SMOKE, *SMALL, '--set', 'seed=2', '--set', 'guided={}', '--no-share'), 'SUCCEEDED')
        self.assertEqual(anew['stages'][1]['checkpoint_sha256'], [s for s in done['stages'] if s['name'] == 'W4A4.guided-on.seed-2'][0]['checkpoint_sha256'])
        self.assertIn('bitstair_stage_duration_estimate_error_ratio_count', self.metrics(self.daemons[0]))
        refused = self.cli('submit', SMOKE, '--set', 'sweep.seed=[1, -2]', check=2)
        self.assertIn('sweep["seed"][1]', refused.stderr)

    def test_garbage_is_collected_but_not_what_is_pinned(self):
        server = self.server()
        self.worker()
        pinned = self.submit(SMOKE, *SMALL)
        self.wait_state(pinned, 'SUCCEEDED')
        self.assertIn('SUCCEEDED', self.cli('pin', pinned).stdout)
        old = self.submit(SMOKE, *SMALL, '--set', 'quantized.epochs=2')
        first = self.wait_state(old, 'SUCCEEDED')
        self.assertIn('would delete 0 blobs', self.cli('gc', '--dry-run').stdout)
        dry = json.loads(self.cli('gc', '--dry-run', '--older-than', '0s', '--output', 'json').stdout)
        self.assertEqual([g['stage'] for g in dry['garbage']], [f'jobs/{old}/stages/W4A4'])
        server.kill()
        self.server(listen=server.ready['address'])
        self.assertIn('deleted 1 blobs', self.cli('gc', '--older-than', '0s').stdout, 'pins are remembered over a restart')
        again = self.wait_state(self.submit(SMOKE, *SMALL, '--set', 'quantized.epochs=2'), 'SUCCEEDED')
        self.assertEqual(harness.digests(again), harness.digests(first), 'it was trained again, to the same bytes')
        self.assertIn('must be like 30d', self.cli('gc', '--older-than', 'long', check=2).stderr)
        self.assertIn('there is no job', self.cli('pin', 'nobody-1234', check=2).stderr)


if __name__ == '__main__':
    unittest.main()
