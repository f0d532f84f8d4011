"""The simulated bank: users with needs, a catalogue, surfaces, and the log of what happened."""
