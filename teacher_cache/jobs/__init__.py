"""A job file in, committed clips out: discovery, plan, scheduler, units of work, engines, memory estimates, audit."""
