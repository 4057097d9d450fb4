//! Image prompts.
