"""`python -m student_train.cli`, as the installed `student-train`; what `torchrun -m` starts."""

from student_train.cli import main

if __name__ == "__main__":
    main()
