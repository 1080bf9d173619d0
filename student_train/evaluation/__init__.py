"""A student's maps beside the teacher's, its answers to questions, and plots of both."""
