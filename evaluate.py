"""Judge trained detectors, averages of them, and baselines: `python evaluate.py --help`."""

from halspan.app.commands import run_command

if __name__ == "__main__":
    run_command("evaluate")
