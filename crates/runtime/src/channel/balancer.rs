//! Calls over all addresses of a service: the less busy of two, and the next where one is dead.
//!
//! tonic has a balancer of its own, but in it a call waits for ever when no address is ready, and
//! a dead address keeps getting its share. Here a call whose connection does not come about goes
//! on to the next address, as gRPC's own clients do: nothing of it was sent. When all addresses
//! are dead, it fails with the last one's error.

use std::{net::SocketAddr, sync::Arc};

use http::{Request, Response};
use rand::seq::IndexedRandom as _;
use tokio::time::Instant;
use tonic::body::Body;

use super::{
    address::{Address, InFlight},
    failure::{Failure, never_stood},
    health::Admission,
    loan::Loan,
    resolver::{Directory, Resolve},
    target::Target,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Balancer {
    directory: Directory,
}

impl Balancer {
    /// Over the addresses that `resolver` finds for `target`. Nothing is sent yet.
    pub(super) fn new(target: Target, resolver: Arc<dyn Resolve>) -> Self {
        let directory = Directory::new(target, resolver);
        Self { directory }
    }

    /// The endpoint.
    pub(super) fn target(&self) -> &Target {
        self.directory.target()
    }

    /// Connects to one address, to know whether anybody is there.
    pub(super) async fn connect(&self) -> Result<(), Failure> {
        let mut failure = no_address();
        for address in self.directory.addresses().await?.iter() {
            match address.connect().await {
                Ok(()) => return Ok(()),
                Err(error) => failure = error.into(),
            }
        }
        self.directory.look_again();
        Err(failure)
    }

    /// Sends one call. Each address is tried once at most.
    pub(super) async fn send(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> Result<(Response<Body>, InFlight), Failure> {
        let loan = Loan::new(request);
        let addresses = self.directory.addresses().await?;
        let began = Instant::now();
        let mut tried = Vec::new();
        let mut failure = no_address();
        loop {
            // Addresses known to be dead share one connect timeout; a call waits no longer on them.
            let desperate = tried.is_empty() || began.elapsed() < self.target().connect_timeout;
            let Some(address) = pick(&addresses, &tried, desperate) else {
                return Err(failure);
            };
            tried.push(address.at());
            let error = match address.send(loan.request()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.directory.look_again();
            let sendable = never_stood(&error) && loan.is_unread();
            failure = error.into();
            if !sendable {
                return Err(failure);
            }
        }
    }
}

fn no_address() -> Failure {
    Failure::Unresolved("the name has no address".to_owned())
}

/// A probe that is due, else one of the healthy, else (`desperate`) one of the ejected.
fn pick<'a>(
    addresses: &'a [Arc<Address>],
    tried: &[SocketAddr],
    desperate: bool,
) -> Option<&'a Arc<Address>> {
    let (mut healthy, mut ejected) = (Vec::new(), Vec::new());
    for address in addresses {
        if tried.contains(&address.at()) {
            continue;
        }
        match address.admit() {
            Admission::Open => healthy.push(address),
            Admission::Probe => return Some(address),
            Admission::Ejected => ejected.push(address),
        }
    }
    less_busy(&healthy).or_else(|| less_busy(&ejected).filter(|_| desperate))
}

/// The less busy of two at random (Mitzenmacher 2001, "the power of two choices"): nearly as even
/// as asking all, and callers that do not know of each other do not all rush to the same.
fn less_busy<'a>(addresses: &[&'a Arc<Address>]) -> Option<&'a Arc<Address>> {
    addresses
        .choose_multiple(&mut rand::rng(), 2)
        .copied()
        .min_by_key(|address| address.in_flight())
}
