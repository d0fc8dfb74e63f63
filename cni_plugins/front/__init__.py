"""The process edge: reads argv[0], environment and stdin, writes stdout and exit code. Decides nothing."""
