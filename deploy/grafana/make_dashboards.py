"""Writes deploy/grafana/dashboards/*.json. What a panel shows is said here once; a test checks that the files are up to date."""
import json
import pathlib
import sys

FOLDER = pathlib.Path(__file__).resolve().parent / 'dashboards'
SOURCE = {'type': 'prometheus', 'uid': '${datasource}'}


def target(expression, legend, number=0, instant=False):
    return {'datasource': SOURCE, 'expr': expression, 'legendFormat': legend, 'refId': chr(ord('A') + number), 'range': not instant, 'instant': instant}


def panel(kind, title, description, unit, targets, width=8, height=8, **options):
    """targets: (expression, legend) each."""
    result = {'type': kind, 'title': title, 'description': description, 'datasource': SOURCE, 'gridPos': {'h': height, 'w': width, 'x': 0, 'y': 0},
              'targets': [target(e, legend, i, kind == 'table') for i, (e, legend) in enumerate(targets)],
              'fieldConfig': {'defaults': {'unit': unit, 'custom': {}}, 'overrides': []}, 'options': {}}
    if kind == 'timeseries':
        result['fieldConfig']['defaults']['custom'] = {'drawStyle': 'line', 'lineWidth': 2, 'fillOpacity': options.get('fill', 10),
                                                       'lineInterpolation': options.get('interpolation', 'linear'), 'showPoints': 'never',
                                                       'stacking': {'mode': 'normal' if options.get('stacked') else 'none', 'group': 'A'}}
        result['options'] = {'legend': {'displayMode': 'list', 'placement': 'bottom', 'showLegend': True}, 'tooltip': {'mode': 'multi', 'sort': 'desc'}}
    elif kind == 'stat':
        result['options'] = {'colorMode': 'value', 'graphMode': 'area', 'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False},
                             'textMode': 'auto', 'orientation': 'auto', 'justifyMode': 'auto'}
    elif kind == 'bargauge':
        result['options'] = {'displayMode': 'basic', 'orientation': 'horizontal', 'reduceOptions': {'calcs': ['lastNotNull'], 'fields': '', 'values': False}}
    if 'minimum' in options:
        result['fieldConfig']['defaults']['min'] = options['minimum']
    if 'maximum' in options:
        result['fieldConfig']['defaults']['max'] = options['maximum']
    return result


def arrange(panels):
    """Rows of 24 columns, as many panels side by side as fit."""
    x = y = row = 0
    for number, item in enumerate(panels, 1):
        position = item['gridPos']
        if x + position['w'] > 24:
            x, y, row = 0, y + row, 0
        position.update(x=x, y=y)
        x, row = x + position['w'], max(row, position['h'])
        item['id'] = number
    return panels


def dashboard(uid, title, description, panels, variables=()):
    datasource = {'type': 'datasource', 'name': 'datasource', 'label': 'Data source', 'query': 'prometheus', 'current': {}, 'hide': 0, 'refresh': 1, 'options': []}
    return {'uid': uid, 'title': title, 'description': description, 'tags': ['bitstair'], 'schemaVersion': 37, 'version': 1, 'editable': True, 'graphTooltip': 1,
            'time': {'from': 'now-1h', 'to': 'now'}, 'refresh': '10s', 'timezone': 'browser', 'annotations': {'list': []}, 'links': [],
            'templating': {'list': [datasource, *variables]}, 'panels': arrange(panels)}


def query_variable(name, label, query):
    return {'type': 'query', 'name': name, 'label': label, 'datasource': SOURCE, 'query': {'query': query, 'refId': name}, 'refresh': 2, 'sort': 1,
            'multi': False, 'includeAll': False, 'current': {}, 'options': [], 'hide': 0}


def quantile(share, metric, by=''):
    return f'histogram_quantile({share}, sum by (le{", " + by if by else ""}) (rate({metric}_bucket[$__rate_interval])))'


def fleet():
    return dashboard('bitstair-fleet', 'Bitstair: fleet', 'Workers, slots, what runs and what goes wrong.', [
        panel('stat', 'Workers', 'Connected workers, and those that are silent.', 'none',
              [('bitstair_workers{state="ready"}', 'ready'), ('bitstair_workers{state="unreachable"}', 'unreachable'), ('bitstair_cordoned_workers', 'cordoned')], 8, 5),
        panel('stat', 'Slots', 'One slot is a GPU, or a share of the cores; one rank runs in it.', 'none', [('bitstair_slots{state="busy"}', 'busy'), ('bitstair_slots{state="free"}', 'free')], 8, 5),
        panel('stat', 'Jobs', 'Jobs that have not ended, and how the others did.', 'none',
              [('sum(bitstair_jobs{state=~"resolving|pending|running|paused|cancelling"})', 'active'), ('bitstair_jobs{state="succeeded"}', 'succeeded'),
               ('bitstair_jobs{state="failed"}', 'failed')], 8, 5),
        panel('timeseries', 'Slots by state', 'Free slots beside waiting stages: see "Bitstair: scheduler and API" for what they wait for.', 'none',
              [('bitstair_slots', '{{state}}')], stacked=True, fill=40, minimum=0),
        panel('timeseries', 'Stages by state', 'Stages that have not ended.', 'none', [('bitstair_stages{state=~"blocked|pending|starting|running|stopping"}', '{{state}}')],
              stacked=True, fill=40, minimum=0),
        panel('timeseries', 'Training speed', 'Training images per second, over all running stages.', 'none', [('sum(bitstair_stage_images_per_second)', 'images/s')], minimum=0),
        panel('timeseries', 'Attempts', 'Attempts that were started, and those that ended badly, per minute.', 'none',
              [('sum(rate(bitstair_attempts_total[$__rate_interval])) * 60', 'started'),
               ('sum by (cause) (rate(bitstair_attempt_failures_total[$__rate_interval])) * 60', 'failed: {{cause}}')], minimum=0),
        panel('timeseries', 'Ends of trainers', 'By cause, as the workers see them, per minute.', 'none',
              [('sum by (cause) (rate(bitstair_worker_trainer_exits_total[$__rate_interval])) * 60', '{{cause}}')], minimum=0),
        panel('timeseries', 'Checkpoints on their way', 'Bytes per second between workers and the artifact store.', 'Bps',
              [('sum(rate(bitstair_worker_upload_bytes_total[$__rate_interval]))', 'up'), ('sum(rate(bitstair_worker_download_bytes_total[$__rate_interval]))', 'down')], minimum=0),
        panel('timeseries', 'Time for a checkpoint', 'Training stands still until it is safe on the local disk; then it is uploaded beside the training.', 's',
              [(quantile(0.99, 'bitstair_worker_checkpoint_duration_seconds'), 'written, 99 %'), (quantile(0.99, 'bitstair_worker_upload_duration_seconds'), 'uploaded, 99 %')], minimum=0),
        panel('timeseries', 'Busy slots by worker', 'From the workers themselves.', 'none', [('sum by (worker) (bitstair_worker_slots{state="busy"})', '{{worker}}')], minimum=0),
        panel('timeseries', 'Connected to the coordinator', '1 while the coordinator has welcomed the worker.', 'none', [('bitstair_worker_connected', '{{worker}}')], minimum=0, maximum=1,
              interpolation='stepAfter'),
        panel('bargauge', 'Disk in use', 'Of the file systems of the state folders.', 'percentunit',
              [('1 - bitstair_disk_free_bytes / bitstair_disk_size_bytes', 'coordinator'),
               ('1 - bitstair_worker_disk_free_bytes / bitstair_worker_disk_size_bytes', '{{worker}}')], minimum=0, maximum=1),
    ])


def job():
    of_job = '{job="$job"}'
    return dashboard('bitstair-job', 'Bitstair: job', 'One job: the staircase of bit-widths and what each stage does. Series stay for 5 minutes after the job has ended.', [
        panel('timeseries', 'The staircase', 'Bits of weights and of activations of each stage, from its start on.', 'none',
              [(f'bitstair_stage_weight_width{of_job}', '{{stage}} weights'), (f'bitstair_stage_activation_width{of_job}', '{{stage}} activations')], 12, 9,
              interpolation='stepAfter', fill=0, minimum=0, maximum=32),
        panel('timeseries', 'Accuracy', 'Top-1 on the test images after each epoch; dotted lines of pairs: the full-precision net.', 'percentunit',
              [(f'bitstair_stage_test_top1_ratio{of_job}', '{{stage}}'), (f'bitstair_stage_teacher_top1_ratio{of_job}', '{{stage}} full precision')], 12, 9, fill=0),
        panel('bargauge', 'Accuracy by stage', 'Top-1 on the test images after the newest epoch.', 'percentunit', [(f'bitstair_stage_test_top1_ratio{of_job}', '{{stage}}')], 8, 8,
              minimum=0, maximum=1),
        panel('timeseries', 'Training loss', 'Mean over the present epoch so far.', 'none', [(f'bitstair_stage_loss{of_job}', '{{stage}}')], 8, 8, fill=0),
        panel('timeseries', 'Epochs', 'Epoch that each stage is in.', 'none', [(f'bitstair_stage_epoch{of_job}', '{{stage}}')], 8, 8, interpolation='stepAfter', fill=0, minimum=0),
        panel('timeseries', 'Training speed', 'Images per second over all ranks.', 'none', [(f'bitstair_stage_images_per_second{of_job}', '{{stage}}')], 8, 8, minimum=0),
        panel('timeseries', 'Time left', 'Of the running stage, as its trainer expects it.', 's', [(f'bitstair_stage_left_seconds{of_job}', '{{stage}}')], 8, 8, minimum=0),
        panel('bargauge', 'Where a step\'s time goes', 'Shares of the newest epoch\'s steps in rank 0. all_reduce: what of it the backward pass does not hide.', 'percentunit',
              [(f'sum by (part) (bitstair_stage_step_seconds{of_job}) / scalar(sum(bitstair_stage_step_seconds{of_job}))', '{{part}}')], 8, 8, minimum=0, maximum=1),
        panel('timeseries', 'Distance of the hints', 'R of guided pairs, mean over each epoch.', 'none', [(f'bitstair_stage_hint_distance{of_job}', '{{stage}}')], 8, 8, fill=0, minimum=0),
        panel('timeseries', 'Clipped activations', 'Share of activations outside of [0, 1], mean over the layers.', 'percentunit', [(f'bitstair_stage_clipped_ratio{of_job}', '{{stage}}')], 8, 8,
              fill=0, minimum=0, maximum=1),
        panel('timeseries', 'All-reduce', 'Bytes that rank 0 has sent since the attempt began; 0 with one rank.', 'bytes', [(f'bitstair_stage_all_reduce_bytes{of_job}', '{{stage}}')], 8, 8, minimum=0),
        panel('timeseries', 'Age of the newest checkpoint', 'What would be lost if everything were killed now.', 's',
              [(f'time() - bitstair_stage_checkpoint_timestamp_seconds{of_job}', '{{stage}}')], 8, 8, fill=0, minimum=0),
        panel('timeseries', 'Size of the checkpoint', 'Of the newest one.', 'bytes', [(f'bitstair_stage_checkpoint_bytes{of_job}', '{{stage}}')], 8, 8, fill=0, minimum=0),
        panel('timeseries', 'Memory', 'Greatest resident memory of rank 0.', 'bytes', [(f'bitstair_stage_memory_bytes{of_job}', '{{stage}}')], 8, 8, fill=0, minimum=0),
    ], [query_variable('job', 'Job', 'label_values(bitstair_stage_weight_width, job)')])


def scheduler():
    return dashboard('bitstair-scheduler', 'Bitstair: scheduler and API', 'What waits and why, how long decisions, calls and commits take.', [
        panel('timeseries', 'Waiting stages', 'Ready stages by what they wait for; `bitstair describe JOB` says it in a sentence.', 'none', [('bitstair_waiting_stages', '{{reason}}')],
              stacked=True, fill=40, minimum=0),
        panel('timeseries', 'Slots by queue', 'Held by stages that the queue\'s jobs wait for; a shared stage counts in parts.', 'none', [('bitstair_queue_slots', '{{queue}}')], minimum=0),
        panel('timeseries', 'Waiting stages by queue', 'Ready stages that do not run.', 'none', [('bitstair_queue_waiting_stages', '{{queue}}')], minimum=0),
        panel('timeseries', 'Jobs by queue', 'With a running stage.', 'none', [('bitstair_queue_jobs', '{{queue}}')], fill=0, minimum=0),
        panel('timeseries', 'Wait for slots', 'From a stage\'s being ready to its start.', 's',
              [(quantile(0.5, 'bitstair_stage_queue_wait_seconds'), 'median'), (quantile(0.99, 'bitstair_stage_queue_wait_seconds'), '99 %')], minimum=0),
        panel('timeseries', 'Time to start', 'From a job\'s creation to the first start of a stage that it needs.', 's',
              [(quantile(0.5, 'bitstair_job_time_to_start_seconds'), 'median'), (quantile(0.99, 'bitstair_job_time_to_start_seconds'), '99 %')], minimum=0),
        panel('timeseries', 'Scheduling latency', 'Of one decision.', 's',
              [(quantile(0.5, 'bitstair_scheduler_decision_duration_seconds'), 'median'), (quantile(0.99, 'bitstair_scheduler_decision_duration_seconds'), '99 %')], minimum=0),
        panel('timeseries', 'Calls', 'Per second, by method.', 'reqps', [('sum by (method) (rate(bitstair_rpcs_total[$__rate_interval]))', '{{method}}')], minimum=0),
        panel('timeseries', 'Calls that failed', 'Share of all, by status code.', 'percentunit',
              [('sum by (code) (rate(bitstair_rpcs_total{code!="ok"}[$__rate_interval])) / scalar(sum(rate(bitstair_rpcs_total[$__rate_interval])))', '{{code}}')], minimum=0),
        panel('timeseries', 'Latency of calls', '99 % of the calls of a method take no longer.', 's', [(quantile(0.99, 'bitstair_rpc_duration_seconds', 'method'), '{{method}}')], minimum=0),
        panel('timeseries', 'Latency of the store', 'Of a transaction, fsync included; one may hold several commits.', 's',
              [(quantile(0.5, 'bitstair_store_transaction_duration_seconds'), 'median'), (quantile(0.99, 'bitstair_store_transaction_duration_seconds'), '99 %')], minimum=0),
        panel('timeseries', 'Commits', 'To the job store, per second.', 'wps', [('rate(bitstair_store_commits_total[$__rate_interval])', 'commits')], minimum=0),
        panel('timeseries', 'Error of expected times', 'How far off the expected duration of stages was when they ended.', 'percentunit',
              [(quantile(0.5, 'bitstair_stage_duration_estimate_error_ratio'), 'median')], minimum=0),
        panel('timeseries', 'Accuracy gates', 'Stages that were held against what their jobs require, in all.', 'none', [('bitstair_gates_total', '{{outcome}}')], fill=0, minimum=0),
        panel('stat', 'Version', 'Of the coordinator.', 'none', [('bitstair_build_info', '{{version}}')], 8, 8),
    ])


def texts():
    """{file name: text}"""
    return {f'{name}.json': json.dumps(board, indent=1) + '\n' for name, board in (('fleet', fleet()), ('job', job()), ('scheduler', scheduler()))}


if __name__ == '__main__':
    for name, text in texts().items():
        (FOLDER / name).write_text(text)
        print(FOLDER / name, file=sys.stderr)
