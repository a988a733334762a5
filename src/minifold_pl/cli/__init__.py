"""The command line: one program, one small file per command."""
