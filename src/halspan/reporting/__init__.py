"""The output of a run for people: reports, tables and plots."""
