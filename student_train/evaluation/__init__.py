"""A trained student and a store go in; scores of its maps and answers, and plots of both, come out."""
