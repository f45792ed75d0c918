"""Other libraries' attention said in kvattn's words: thin adapters, imported on use, their packages never required."""
