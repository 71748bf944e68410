"""The training loop of a run, and all that keeps it going or ends it well."""
