"""The operator's commands, by what they are about. `chat_app/__main__.py` joins them."""
