"""What is learned: curves, tables, the trained model taken apart."""
