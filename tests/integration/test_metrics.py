"""What Prometheus would scrape, checked by promtool while a job runs."""
import subprocess
import unittest

import harness
from harness import wait_for


class MetricsTest(harness.Case):

    def promtool(self, text):
        done = subprocess.run(['promtool', 'check', 'metrics'], input=text, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual((done.stdout + done.stderr).strip(), '')

    def test_promtool_finds_nothing_to_say_on_server_and_worker(self):
        server = self.server()
        worker = self.worker()
        self.promtool(self.metrics(server))
        self.promtool(self.metrics(worker))
        job = self.submit()
        self.wait_state(job, 'SUCCEEDED')
        # Gauges are refreshed by a timer; a scrape right after the end may still see the job running.
        wait_for(lambda: 'bitstair_jobs{state="succeeded"} 1' in self.metrics(server), 'the ended job is counted', 10)
        text = self.metrics(server)
        self.promtool(text)
        self.promtool(self.metrics(worker))
        self.assertRegex(text, r'bitstair_build_info\{')


if __name__ == '__main__':
    unittest.main()
