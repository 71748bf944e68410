"""The agent and its learning: world model, actor and critic; tensors in, tensors out."""
