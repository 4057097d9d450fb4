//! The `diptych` client.
