"""What an agent is worth: whole episodes, their figures, published scores and curves."""
