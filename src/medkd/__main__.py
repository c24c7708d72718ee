"""`python -m medkd` is the command `medkd`."""

from medkd.cli import main

if __name__ == "__main__":
    main()
