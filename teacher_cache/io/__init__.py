"""Access to servers, disks and terminals: clients, retries, request counts, locks, output folders, console, command lines."""
