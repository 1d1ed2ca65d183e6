"""The library over HTTP: `embed-assets serve`. Importing this imports nothing heavy."""
