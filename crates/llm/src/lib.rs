//! Client of remote language models.
