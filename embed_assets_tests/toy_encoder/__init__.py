"""An encoder that a test adds: a folder with a card and the encoder itself."""
