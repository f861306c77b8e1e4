"""`python -m pacs_server` is the same as `pacs-server`."""

from pacs_server.cli.main import main

if __name__ == "__main__":
    main()
