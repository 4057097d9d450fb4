//! The thread pools of the process: ours (rayon) stays, candle's busy-waiting one goes.

use std::sync::Once;

/// Switches candle's own pool off. Call it first thing in `main`, before any other thread runs.
///
/// candle 0.11 keeps a second, process-wide pool for element-wise ops, whose idle threads spin: on a
/// loaded machine it took half of all samples of a training step (3.45 x PyTorch with it, 2.11 x
/// without). The number of our own threads is rayon's: `RAYON_NUM_THREADS`.
///
/// Calling it again does nothing; a `CANDLE_NUM_THREADS` that the user set is kept.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            set_candle_threads();
        }
    });
}

#[allow(
    unsafe_code,
    reason = "candle reads its thread count from the environment alone, and writing the environment is unsafe \
              while other threads read it; `init` is for the first line of `main`"
)]
fn set_candle_threads() {
    // SAFETY: see the reason above.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
}
