"""From a store to an HTML page that shows what the teacher saw."""
