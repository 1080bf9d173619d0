"""A job file to committed clips: discovery, plan, schedule, units of work, engines, memory, audit."""
