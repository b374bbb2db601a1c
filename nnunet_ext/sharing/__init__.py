"""A trained model in a zip for others: its network, its needs, and a card that describes it."""
