//! The store of samples.
