"""Each stage reads files, calls the library and writes files."""
