//! Traffic to measure.
