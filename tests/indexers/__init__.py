"""Models whose attention picks what it looks at: how the scores learn."""
