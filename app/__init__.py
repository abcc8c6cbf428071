"""What a person or a clock starts: command line, settings, web pages, engine, rounds."""
