"""The process edge: argv[0], environment, stdin, stdout, exit code. Decides nothing."""
