"""Questions, a clip's objects and frames in; phrases that name objects, their links, and pictures that mark them out."""
