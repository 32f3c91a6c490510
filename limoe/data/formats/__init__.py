"""How people keep pictures, captions and labels: what training sets and test sets are read by alike."""
