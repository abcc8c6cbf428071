"""What comes in from files and other programs, and what goes out to them."""
