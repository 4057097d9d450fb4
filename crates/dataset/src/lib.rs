//! The store of samples. Also the abilities that samples are made for, and the
//! questions asked about them.

pub mod ability;
pub mod question;
