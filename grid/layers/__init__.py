"""Which donor holds which layers of a model that no single one can hold, and how tokens pass over them. Pure rules."""
