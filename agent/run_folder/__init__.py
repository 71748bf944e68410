"""The files of a run's folder: written atomically with checksums, and read without trusting their contents."""
