"""From a store's arrays to an HTML page that shows what the teacher saw."""
