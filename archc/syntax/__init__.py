"""Text to tree: the parser, the tree and the formatter."""
