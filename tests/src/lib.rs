//! Harness of the suite's tests.
