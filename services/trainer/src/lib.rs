//! LLaVA training.
