"""The agent and its learning: world model, actor and critic, on tensors."""
