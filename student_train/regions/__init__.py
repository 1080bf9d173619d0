"""Questions that name objects, and a store of regions, go in; questions about marks, reviewed by people, come out."""
