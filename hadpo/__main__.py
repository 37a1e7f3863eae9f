"""`python -m hadpo` is the same as `hadpo`."""

from hadpo.cli import main

if __name__ == "__main__":
    main()
