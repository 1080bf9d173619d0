"""Reaching servers, disks and people: clients, patience, request counts, locks, output folders, the terminal, command lines."""
