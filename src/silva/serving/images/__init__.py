"""Image classifiers behind the API: every client of a forest of images, in one batch."""
