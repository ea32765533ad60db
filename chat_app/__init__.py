"""The core of the paid chat: accounts, credits, chat, inference. It knows no web page.

Importing this package does nothing: no file, no network, no thread, no heavy library.
"""

__version__ = "0.1.0"
