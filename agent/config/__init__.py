"""Settings of a run: their definitions, the sources of their values, and reading and writing them."""
