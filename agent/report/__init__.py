"""What a run has learned, taken apart on held-out episodes, and the page that shows it (`write_report`).

Figures are gathered by pure functions (`gather.py` calls them all) and drawn by others (`page.py`). The benchmarks of
benchmarks/learning/ that examine a trained run use the same functions.
"""
