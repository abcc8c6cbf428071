"""What resembles what, and on which side of the split it stays."""
