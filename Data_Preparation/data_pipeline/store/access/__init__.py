"""Access to files on disk: memory maps, text columns, read-ahead, remote folders."""
