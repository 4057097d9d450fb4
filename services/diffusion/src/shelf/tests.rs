//! Models that are numbers: who comes, who leaves, who waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::*;

/// A shelf of three models of four bytes, of which so many fit.
fn shelf(fitting: u64) -> (Shelf<usize>, Arc<AtomicUsize>, Arc<AtomicBool>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let is_broken = Arc::new(AtomicBool::new(false));
    let (counted, broken) = (loads.clone(), is_broken.clone());
    let shelf = Shelf::new(vec![4; 3], Some(4 * fitting), 10, move |slot| {
        counted.fetch_add(1, Ordering::SeqCst);
        match broken.load(Ordering::SeqCst) {
            true => Err(Error::Task("the disk is gone".into())),
            false => Ok(slot),
        }
    });
    (shelf, loads, is_broken)
}

fn pictures(pictures: usize) -> Burden {
    Burden { pictures, bytes: 0 }
}

/// A request that waits on a task of its own, and the places it is told.
fn request(
    shelf: &Shelf<usize>,
    slot: usize,
) -> (
    tokio::task::JoinHandle<Result<Lease<usize>, Error>>,
    mpsc::UnboundedReceiver<usize>,
) {
    let (sender, told) = mpsc::unbounded_channel();
    let shelf = shelf.clone();
    let waiting = async move {
        let tell = |place| {
            let _the_test_may_have_ended = sender.send(place);
        };
        shelf.lease(slot, pictures(1), tell).await
    };
    (tokio::spawn(waiting), told)
}

async fn used(shelf: &Shelf<usize>, slot: usize) {
    let lease = shelf
        .lease(slot, pictures(1), |_| {})
        .await
        .expect("it loads");
    assert_eq!(*lease, slot);
}

#[tokio::test]
async fn the_idle_model_used_longest_ago_makes_room() {
    let (shelf, loads, _) = shelf(2);
    used(&shelf, 0).await;
    used(&shelf, 1).await;
    used(&shelf, 0).await;
    assert_eq!(loads.load(Ordering::SeqCst), 2);
    used(&shelf, 2).await;
    assert!(shelf.try_lease(1).is_none(), "it was used longest ago");
    assert!(shelf.try_lease(0).is_some() && shelf.try_lease(2).is_some());
    // One at work is passed over, though it was used longest ago.
    let busy = shelf.try_lease(0);
    used(&shelf, 2).await;
    used(&shelf, 1).await;
    assert!(busy.is_some() && shelf.try_lease(0).is_some());
    assert!(shelf.try_lease(2).is_none());
}

#[tokio::test]
async fn a_busy_model_takes_nothing_new_while_another_waits_for_its_room() {
    let (shelf, loads, _) = shelf(1);
    used(&shelf, 0).await;
    let busy = shelf.try_lease(0).expect("it is there");
    let (other, mut told) = request(&shelf, 1);
    assert_eq!(told.recv().await, Some(0));
    assert!(shelf.try_lease(0).is_none(), "it is about to leave");
    let (again, mut told) = request(&shelf, 0);
    assert_eq!(told.recv().await, Some(1));
    drop(busy);
    let other = other.await.expect("no panic").expect("it loads");
    assert_eq!((*other, told.recv().await), (1, Some(0)));
    drop(other);
    assert_eq!(*again.await.expect("no panic").expect("it loads"), 0);
    assert_eq!(loads.load(Ordering::SeqCst), 3);

    // Whoever leaves the line wants no room any more.
    let busy = shelf.try_lease(0).expect("it is there");
    let (leaving, mut told) = request(&shelf, 1);
    assert_eq!(told.recv().await, Some(0));
    leaving.abort();
    assert!(leaving.await.is_err());
    assert!(shelf.try_lease(0).is_some());
    drop(busy);
}

#[tokio::test]
async fn a_load_that_fails_is_told_and_tried_again_by_the_next() {
    let (shelf, loads, is_broken) = shelf(2);
    is_broken.store(true, Ordering::SeqCst);
    let failed = shelf.lease(0, pictures(1), |_| {}).await;
    assert!(matches!(failed.err(), Some(Error::Shared(_))));
    is_broken.store(false, Ordering::SeqCst);
    used(&shelf, 0).await;
    assert_eq!(loads.load(Ordering::SeqCst), 2);

    let refused = shelf.lease(1, pictures(11), |_| {}).await;
    assert!(matches!(
        refused.err(),
        Some(Error::Full { capacity: 10, .. })
    ));
    let heavy = Burden {
        pictures: 1,
        bytes: MAX_WAITING_BYTES + 1,
    };
    let refused = shelf.lease(1, heavy, |_| {}).await;
    assert!(matches!(refused.err(), Some(Error::Heavy { .. })));
}
