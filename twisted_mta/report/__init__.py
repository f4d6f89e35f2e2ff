"""What we say about mail: delivery status notifications."""
