"""The comparison as something to read: evidence in, one document out, written as Markdown and as one self-contained page."""
