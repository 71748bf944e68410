"""Videos of episodes and of dreams."""
