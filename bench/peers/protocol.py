"""How a benchmark talks to the programs it compares, ours and the peers alike.

Each one is a process of its own, so that libraries, threads and memory do not mix. It is started with --network, its mode or variant, --batch and --threads, sets up,
warms up, and prints one JSON line {"ready": true, "threads": T}. Then it blocks on its standard input, without using a core, and answers each line with one JSON line:

  run K    takes K whole training steps (zero the gradients, forward, loss, backward, update): {"seconds": [s1, ..., sK]}
  split    ours alone: where the time of a step goes: {"split": {"conv_forward": seconds, ...}}; also "elementwise_bytes", and in
           bytes/s "elementwise_bandwidth" and, of a plain copy, "copy_bandwidth"
  memory   takes a few steps: {"baseline_bytes": B, "peak_bytes": P}: the resident set with the libraries loaded, but before the network, the data and the optimiser
           exist, and its peak over whole steps after the warm-up
  quit     or the end of the input: exits

It exits with UNSUPPORTED, before any answer, if it lacks the mode, and with UNKNOWN_COMMAND at a line that it does not know, as a program without `split` may.
"""
import json
import sys

UNKNOWN_COMMAND = 2
UNSUPPORTED = 3


def serve(answer, handlers):
    """The peers' side. answer: the file that goes to the driver; handlers: command -> function of its arguments that returns a dictionary."""
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == 'quit':
            return
        if command not in handlers:
            print(f'unknown command {command}', file=sys.stderr)
            sys.exit(UNKNOWN_COMMAND)
        print(json.dumps(handlers[command](*arguments)), file=answer, flush=True)
