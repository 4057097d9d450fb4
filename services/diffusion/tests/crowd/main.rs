//! Two hundred calls of four callers on the tiny checkpoint. `examples/crowd.rs` is the same on
//! nano-sd, with figures.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking"
)]

mod guests;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use guests::{Host, LEAVING, Party};

/// What the allocator may keep beyond the first crowd, in MiB and as a share.
const MARGIN: (f64, f64) = (8., 1.1);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_calls_at_once_get_the_pictures_they_would_get_alone() {
    let party = Party {
        calls: 200,
        callers: 4,
        steps: 10,
        capacity: 32,
    };
    let tiny =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/models/tests/fixtures/sd/tiny");
    let mut command = Command::new(env!("CARGO_BIN_EXE_diffusion"));
    command
        .args(["--assets", "/nonexistent"])
        .arg("--model")
        .arg(format!("tiny={}", tiny.display()));
    let host = Host::start(&mut command, party.capacity);
    let (expected, _) = guests::alone(&host, party).await;
    let expected = Arc::new(expected);
    let mut resident_mib = Vec::new();
    for _ in 0..3 {
        let seen = guests::crowd(&host, party, &expected).await;
        let left = party.calls / LEAVING;
        assert_eq!((seen.answered, seen.left), (party.calls - left, left));
        assert_eq!(seen.mixed_up, 0);
        assert!(seen.refused > 0, "the bound was never reached");
        assert!(seen.longest_queue <= party.capacity, "{seen:?}");
        resident_mib.push(host.resident_mib());
    }
    let most = resident_mib[0] * MARGIN.1 + MARGIN.0;
    assert!(resident_mib[2] <= most, "it grows: {resident_mib:?} MiB");
}
