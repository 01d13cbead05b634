"""An HTTP server with OpenAI's interface (extra `[serve]`).

request -> wire -> tasks -> scheduler -> batch -> pieces -> answers -> response
"""
