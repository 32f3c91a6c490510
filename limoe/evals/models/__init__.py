"""Contestants that are not trained here, opened from whatever form their weights have."""
