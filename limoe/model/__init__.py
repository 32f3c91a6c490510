"""The tower, its router and experts, the CLIP baseline, and their costs."""
