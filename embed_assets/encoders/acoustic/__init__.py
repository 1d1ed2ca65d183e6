"""The built-in encoder `acoustic`: measurable features, no model, no download."""
