"""MuQ-MuLan: vectors of music and of words in one space."""
