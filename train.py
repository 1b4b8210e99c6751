"""Train a detector and judge it on generators it never saw: `python train.py --help`."""

from halspan.app.commands import run_command

if __name__ == "__main__":
    run_command("train")
