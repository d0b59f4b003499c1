"""`python -m medlip` is the command `medlip`."""

from medlip.app.cli import main

if __name__ == "__main__":
    main()
