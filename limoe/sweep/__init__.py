"""A sweep as plain functions: the space, its trials, and what they say; flows/ only schedules them."""
