//! How much freed memory a process holds on to: two settings of glibc's allocator for programs that
//! run for hours, wait for others and move buffers of many sizes, and what gives it back at once. With its defaults their resident
//! memory grows with the length of the run. Under other allocators nothing happens.

/// One arena for all threads, where the default is eight for each core. Threads that have theirs keep
/// it, so this comes first in a program.
pub fn share_arena() {
    set(&[(Setting::ArenaMax, 1)]);
}

/// Blocks of 128 KiB or more come straight from the system and go straight back. Not for a process
/// that computes: every large tensor would be mapped anew.
pub fn return_large_blocks() {
    set(&[(Setting::Mmap, LARGE_BYTES), (Setting::Trim, LARGE_BYTES)]);
}

/// Gives what has been freed back to the system, after something large has gone for good.
pub fn give_back() {
    trim();
}

/// Where glibc starts; stated, it no longer follows the largest block that was freed.
const LARGE_BYTES: i32 = 128 << 10;

#[derive(Clone, Copy)]
enum Setting {
    ArenaMax,
    Mmap,
    Trim,
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's only interface")]
fn set(settings: &[(Setting, i32)]) {
    for &(setting, value) in settings {
        let parameter = match setting {
            Setting::ArenaMax => libc::M_ARENA_MAX,
            Setting::Mmap => libc::M_MMAP_THRESHOLD,
            Setting::Trim => libc::M_TRIM_THRESHOLD,
        };
        // SAFETY: `mallopt` takes numbers, may be called at any time from any thread (it locks the
        // main arena), and leaves its parameter alone where it does not accept the value.
        unsafe { libc::mallopt(parameter, value) };
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(_: &[(Setting, i32)]) {}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "the allocator's only interface")]
fn trim() {
    // SAFETY: `malloc_trim` takes a number, locks the arenas itself, and touches free memory only.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn trim() {}
