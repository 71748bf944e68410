"""What lies in a run's folder, written so that it can be trusted and read so that it can do no harm."""
