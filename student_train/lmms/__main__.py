"""``python -m student_train.lmms`` prints the folder of tasks, for lmms-eval's ``--include_path``."""

from __future__ import annotations

import sys

from student_train.lmms import TASKS

sys.stdout.write(f"{TASKS}\n")
