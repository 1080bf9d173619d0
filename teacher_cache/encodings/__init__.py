"""From a clip's raw signals to stored arrays and back, each with a stated error bound."""
