"""Repository root: makes ``tests`` importable wherever pytest is started. pytester is switched on in pyproject.toml."""
