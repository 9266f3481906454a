"""Quality presets for whole documents: the rules of Gopher, C4 and FineWeb, with datatrove's decisions."""
