"""Benchmarks: each module a command, each result a table."""
