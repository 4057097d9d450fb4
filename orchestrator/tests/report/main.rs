//! The report: what its text holds, and what a browser makes of it.

mod browser;
mod fixture;
mod page;
