"""The resident half: workers that have imported everything answer what executables hand over to them."""
