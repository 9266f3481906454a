"""One file a selector, with its paper."""
