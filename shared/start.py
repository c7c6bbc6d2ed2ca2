"""Starts an entry: `python -m shared.start MODULE ARGUMENTS...` is `python -m MODULE ARGUMENTS...`, but for Ctrl-C while it imports.

That takes seconds, and there is nothing yet to be kept or told: the process ends at once, by the signal, without a traceback.
`shared.cli.run_entry`, in which every entry's main runs, takes over from there.
"""

import runpy
import signal
import sys

if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # it may have been told to ignore Ctrl-C
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
