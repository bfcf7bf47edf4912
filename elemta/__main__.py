"""Entry point of `python -m elemta`.

It only forwards to the command line. The import is late, so that importing this module (a documentation tool, a type
checker) starts nothing.
"""


def main() -> None:
    """Run the command line; exits through `SystemExit` with the code of the command."""
    from elemta.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
