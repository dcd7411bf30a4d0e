"""How fast the engine is, beside what it replaces."""
