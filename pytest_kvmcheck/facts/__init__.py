"""Facts: pure functions from text to frozen dataclasses. No parser knows where its text came from."""
