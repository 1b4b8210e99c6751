"""Write a trained detector into a folder that loads anywhere: `python export.py --help`."""

from halspan.app.commands import run_command

if __name__ == "__main__":
    run_command("export")
