"""``python -m student_train.lmms`` prints the folder of tasks, for lmms-eval's ``--include_path``."""

from __future__ import annotations

from student_train.lmms import TASKS
from teacher_cache.io.console import stdout

stdout.print(str(TASKS), soft_wrap=True, markup=False, highlight=False)
