"""How does a served language model answer: how fast, slower than base, and right?

Knows the OpenAI-compatible API only, no server by name (docs/llm.md).
"""
