"""The site: its pages, and the code that computes what they show. `make docs` builds it."""
