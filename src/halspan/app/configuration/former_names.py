"""Names of earlier versions, and what they are called now; `docs/stability.md` lists the same."""

SPECS = {
    "halspan.training.spec.": "halspan.training.run_spec.",
    "halspan.models.spec.": "halspan.models.model_spec.",
    "halspan.baselines.spec.": "halspan.evaluation.baselines.baseline_specs.",
    "halspan.data.split.Split": "halspan.data.split.parts.Split",
    "halspan.data.jsonl.": "halspan.data.readers.jsonl.",
    "halspan.data.alignbench.": "halspan.data.readers.alignbench.",
    "halspan.data.chocolate.": "halspan.data.readers.chocolate.",
    "halspan.data.shapes.Shapes": "halspan.data.shapes.world.Shapes",
}
"""Present prefixes of the names that stand at `_target_`, by those of earlier versions."""

TYPED = {"trainer.rows_per_pass": "trainer.tokens_per_pass"}
"""What to type now, by what was typed before: a key (`trainer.x`), a file of a group (`data=x`), a command or an option
(`halspan x`, `halspan score --x`)."""


def find_spec(name: str) -> str:
    """Return the present name of a spec; any other name is returned unchanged.

    >>> find_spec("halspan.data.jsonl.JsonLines")
    'halspan.data.readers.jsonl.JsonLines'
    """
    return next((now + name[len(old) :] for old, now in SPECS.items() if name.startswith(old)), name)


def explain(typed: str) -> str | None:
    """Return what a key, file, command or option of an earlier version is called now; None for any other text."""
    return f"{typed} is called {TYPED[typed]} now" if typed in TYPED else None
