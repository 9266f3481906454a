"""Personal data in texts: found by kind, masked or counted."""
