"""`python -m teacher_cache.cli`, as the installed `teacher-cache`."""

from teacher_cache.cli import main

if __name__ == "__main__":
    main()
