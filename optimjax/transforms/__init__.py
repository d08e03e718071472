"""Rules: updates in, updates out. Each has arithmetic on arrays."""
