"""Sphinx configuration of the site; `python -m docs.build` builds it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "rawgan"
html_title = "rawgan"
language = "en"
extensions = ["myst_parser", "docs.ext.mathml", "docs.ext.source", "docs.ext.drawing"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["ext", "figures", "style"]
highlight_language = "none"
pygments_style, pygments_dark_style = "tango", "native"
nitpicky = True

html_theme = "furo"
html_static_path = ["style"]
html_css_files = ["rawgan.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_last_updated_fmt = None
FONTS = {
    "font-stack": 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif',
    "font-stack--monospace": 'ui-monospace, "SF Mono", Menlo, '
    'Consolas, "DejaVu Sans Mono", monospace',
}
html_theme_options = {
    "light_css_variables": FONTS
    | {"color-brand-primary": "#0b5cad", "color-brand-content": "#0b5cad"},
    "dark_css_variables": FONTS
    | {"color-brand-primary": "#7ab8f5", "color-brand-content": "#7ab8f5"},
}
