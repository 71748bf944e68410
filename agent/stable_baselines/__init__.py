"""The agent in Stable-Baselines3's manner, and Stable-Baselines3's algorithms as baselines in ours."""
