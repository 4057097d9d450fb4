//! The thread pools of the process: ours (rayon) stays, candle's busy-waiting one goes.

use std::sync::Once;

/// Switches candle's own pool off. Call it first thing in `main`, before any other thread runs.
///
/// candle 0.11 keeps a second, process-wide pool for element-wise ops, whose idle threads spin: on a
/// loaded machine it took half of all samples of a training step (3.45 x PyTorch with it, 2.11 x
/// without). The number of our own threads is rayon's: `RAYON_NUM_THREADS`.
///
/// It also writes down the number that rayon takes anyway: without `RAYON_NUM_THREADS`, candle's `matmul`
/// reads /proc/cpuinfo before every product, which was nine tenths of a small model's time.
///
/// Calling it again does nothing; what the user set is kept.
pub fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        set_where_absent("CANDLE_NUM_THREADS", "1");
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        set_where_absent("RAYON_NUM_THREADS", &count.to_string());
    });
}

#[allow(
    unsafe_code,
    reason = "candle reads its thread counts from the environment alone, and writing the environment is unsafe \
              while other threads read it; `init` is for the first line of `main`"
)]
fn set_where_absent(name: &str, value: &str) {
    if std::env::var_os(name).is_none() {
        // SAFETY: see the reason above.
        unsafe { std::env::set_var(name, value) };
    }
}
