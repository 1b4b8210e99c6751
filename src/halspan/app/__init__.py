"""The application: training, evaluation and export from a command line; the only users of hydra."""
