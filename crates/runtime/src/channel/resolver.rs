//! From a host's name to the addresses that calls go to, looked up again and again.
//!
//! A headless Service resolves to every ready pod, and pods come and go. So a name is looked up at
//! a steady interval, and sooner when an address has failed. An endpoint that is an address itself
//! is never looked up, and has no task.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    address::Address,
    failure::{Failure, describe},
    target::Target,
};

/// Looks up the addresses of a host.
pub trait Resolve: fmt::Debug + Send + Sync + 'static {
    /// All addresses of `host`, with the port that calls go to: `port`, unless the resolver knows
    /// better.
    fn resolve(&self, host: &str, port: u16) -> Lookup;
}

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// The system's resolver: `/etc/hosts`, then DNS.
#[derive(Debug, Clone, Copy)]
pub struct Dns;

impl Resolve for Dns {
    fn resolve(&self, host: &str, port: u16) -> Lookup {
        let host = host.to_owned();
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// The addresses of one endpoint, kept up to date from the first call until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    shared: Arc<Shared>,
    resolver: Arc<dyn Resolve>,
    refresher: OnceLock<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    known: watch::Sender<Known>,
    /// Told when an address has failed.
    hurry: Notify,
}

#[derive(Debug)]
enum Known {
    Nothing,
    Failed(String),
    /// Never empty.
    Addresses(Addresses),
}

/// What calls choose from.
pub(super) type Addresses = Arc<[Arc<Address>]>;

/// Lookups are at least this far apart, or an interval where that is shorter.
const MIN_GAP: Duration = Duration::from_millis(500);

impl Directory {
    /// The addresses of `target`. Nothing is looked up yet.
    pub(super) fn new(target: Target, resolver: Arc<dyn Resolve>) -> Self {
        let known = match target.literal {
            Some(at) => Known::Addresses([Arc::new(Address::new(&target, at))].into()),
            None => Known::Nothing,
        };
        let shared = Shared {
            target,
            known: watch::Sender::new(known),
            hurry: Notify::new(),
        };
        Self {
            shared: Arc::new(shared),
            resolver,
            refresher: OnceLock::new(),
        }
    }

    /// The endpoint whose addresses these are.
    pub(super) fn target(&self) -> &Target {
        &self.shared.target
    }

    /// The addresses as they are known. Where none is, the outcome of the next lookup: that of an
    /// earlier one says nothing about now.
    pub(super) async fn addresses(&self) -> Result<Addresses, Failure> {
        let mut known = self.shared.known.subscribe();
        if let Known::Addresses(addresses) = &*known.borrow() {
            return Ok(Arc::clone(addresses));
        }
        self.look_again();
        let stopped = || Failure::Unresolved("nothing looks it up any more".to_owned());
        known.changed().await.map_err(|_| stopped())?;
        match &*known.borrow() {
            Known::Addresses(addresses) => Ok(Arc::clone(addresses)),
            Known::Failed(text) => Err(Failure::Unresolved(text.clone())),
            Known::Nothing => Err(stopped()),
        }
    }

    /// Asks for a lookup before its time. Does not wait for it.
    pub(super) fn look_again(&self) {
        if self.shared.target.literal.is_some() {
            return;
        }
        let mut begun = false;
        self.refresher.get_or_init(|| {
            begun = true;
            let shared = Arc::clone(&self.shared);
            let refresher = tokio::spawn(shared.refresh(Arc::clone(&self.resolver)));
            AbortOnDropHandle::new(refresher)
        });
        // A refresher that has just begun looks at once.
        if !begun {
            self.shared.hurry.notify_one();
        }
    }
}

impl Shared {
    async fn refresh(self: Arc<Self>, resolver: Arc<dyn Resolve>) {
        let interval = self.target.resolve_interval;
        let gap = interval.clamp(Duration::from_millis(1), MIN_GAP);
        loop {
            let lookup = resolver.resolve(&self.target.host, self.target.port);
            let found = timeout(self.target.connect_timeout, lookup).await;
            self.learn(found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())));
            sleep(gap).await;
            tokio::select! {
                () = sleep(interval.saturating_sub(gap)) => {}
                () = self.hurry.notified() => {}
            }
        }
    }

    fn learn(&self, found: io::Result<Vec<SocketAddr>>) {
        let found = match found {
            Ok(found) if found.is_empty() => Err("the name has no address".to_owned()),
            found => found.map_err(|error| describe(&error)),
        };
        self.known.send_if_modified(|known| match (found, &*known) {
            (Ok(found), Known::Addresses(old)) => {
                *known = Known::Addresses(self.reconcile(old, found));
                true
            }
            (Ok(found), _) => {
                *known = Known::Addresses(self.reconcile(&[], found));
                true
            }
            // DNS may be away for a moment; the pods it named are not.
            (Err(reason), Known::Addresses(_)) => {
                tracing::debug!(
                    host = self.target.host,
                    reason,
                    "keeping the known addresses"
                );
                false
            }
            (Err(reason), _) => {
                *known = Known::Failed(reason);
                true
            }
        });
    }

    /// What stays keeps its connection and its record. What is gone is forgotten here, and lives
    /// on in the calls that are under way on it.
    fn reconcile(&self, old: &[Arc<Address>], mut found: Vec<SocketAddr>) -> Addresses {
        found.sort_unstable();
        found.dedup();
        let keep = |at: SocketAddr| {
            old.iter()
                .find(|address| address.at() == at)
                .map_or_else(|| Arc::new(Address::new(&self.target, at)), Arc::clone)
        };
        found.into_iter().map(keep).collect()
    }
}
