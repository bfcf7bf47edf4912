"""The failure of a scanner.

What is not here: what becomes of the mail, which the chain decides by the plugin's `on_error`.
"""

from elemta.plugins.api import PluginFailed


class ScannerFailed(PluginFailed):
    """A scanner gave no clear answer: it is away, too slow, or says something else. The text says which and why."""
