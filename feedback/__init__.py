"""What people said, and what we made of it: the record of events, and the rooms around it."""
