"""Reports about runs: what is printed or written for people to read."""
