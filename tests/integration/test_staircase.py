"""The whole staircase 32 -> 16 -> 8 -> 4 -> 2, with two-stage training in both orders."""
import json
import unittest

import harness
from harness import SMOKE


class StaircaseTest(harness.Case):

    def run_smoke(self, *settings):
        arguments = [part for setting in settings for part in ('--set', setting)]
        result = json.loads(self.cli('run', SMOKE, '--output', 'json', *arguments, timeout=300).stdout)
        self.assertEqual(result['state'], 'SUCCEEDED')
        return result['stages']

    def test_every_step_down_to_two_bits(self):
        stages = self.run_smoke('widths=[32, 16, 8, 4, 2]', 'quantized.epochs=12', 'data.test_limit=500')
        self.assertEqual([s['name'] for s in stages], ['W32A32', 'W16A32', 'W16A16', 'W8A16', 'W8A8', 'W4A8', 'W4A4', 'W2A4', 'W2A2'])
        self.assertGreater(stages[-1]['top1'], 50.0)

    def test_order_per_stage(self):
        stages = self.run_smoke('widths=[32, 8, 4]', 'order=per_stage', 'quantized.epochs=4', 'data.test_limit=500')
        self.assertEqual([s['name'] for s in stages], ['W32A32', 'W8A32', 'W4A32', 'W4A8', 'W4A4'])


if __name__ == '__main__':
    unittest.main()
