//! Mathematics on candle.
