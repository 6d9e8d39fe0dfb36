"""What Domain-0 does at the far end of a guest's rings."""
