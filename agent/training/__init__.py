"""The training loop of a run, with its clocks, evaluation, recovery and display."""
