"""Run commands one after the other in one process, as a shell would run them in this folder; imports are paid once.

Standard input has the commands, a JSON list of lists of words; standard output gets one JSON object a command.
"""

import json
import os
import runpy
import subprocess
import sys
import time
from pathlib import Path


def run(words: list[str]) -> int:
    """Run a command, `python FILE ...` and `halspan ...` in this process, and return its exit status."""
    from halspan import cli

    try:
        if words[0] == "python":
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
        elif words[0] == "halspan":
            sys.argv = list(words)
            cli.main(words[1:])
        else:
            return subprocess.call(words)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def main() -> None:
    """Stop at the first command that fails."""
    said = os.fdopen(os.dup(1), "w")
    log = Path("output.txt").open("w+b")  # noqa: SIM115 -- both streams of every command go there
    for stream in (1, 2):
        os.dup2(log.fileno(), stream)
    for words in json.load(sys.stdin):
        start, began = log.seek(0, os.SEEK_END), time.process_time()
        status = run(words)
        sys.stdout.flush()
        log.seek(start)
        output = log.read().decode()
        seconds = round(time.process_time() - began, 1)
        print(json.dumps({"status": status, "seconds": seconds, "output": output}), file=said, flush=True)
        if status:
            break


if __name__ == "__main__":
    main()
