"""The static site of these pages: `make docs` builds it without network."""

project = "compress"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "compress"
exclude_patterns = ["example_plugin"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]
