"""Settings of a run: what they are, where their values come from, how they are read and written."""
