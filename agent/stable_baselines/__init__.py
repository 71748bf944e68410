"""The agent behind Stable-Baselines3's interface, and Stable-Baselines3's algorithms as baselines behind ours."""
