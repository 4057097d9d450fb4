//! Rules of every service, whatever it does: health, reflection, and saying what it can do.

use std::time::Duration;

use futures::stream;
use proto::dataset::v1::Capabilities;
use runtime::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::{
    Case, Subject,
    ledger::{Ledger, Miss, Refusal, Rule, Seen, holds, is_sha256},
};

/// How long until a service that is loading its model is asked again.
const LOADING_PAUSE: Duration = Duration::from_millis(200);

/// The rules of every service, at one endpoint.
pub(super) struct Manners<'a> {
    name: &'static str,
    channel: &'a Channel,
}

impl<'a> Manners<'a> {
    pub(super) fn new(case: &Case, channel: &'a Channel) -> Self {
        let name = Subject::grpc_name(case.subject);
        Self { name, channel }
    }

    pub(super) async fn judge(&self, ledger: &mut Ledger) {
        let rule = Rule::must(
            "health_serving",
            "grpc.health.v1.Health says SERVING for the service's full name, once it has loaded.",
            "register the gRPC health service and set SERVING for the full name once the model has answered",
        );
        ledger.judge(rule, self.serving(self.name)).await;
        let rule = Rule::should(
            "health_of_the_whole",
            "Health says SERVING for the empty name too, which probes ask for by default.",
            "set SERVING for the name \"\" as well",
        );
        ledger.judge(rule, self.serving("")).await;
        let rule = Rule::should(
            "reflection_v1",
            "grpc.reflection.v1 lists the service, so that grpcurl needs no schemas.",
            "register the reflection service with the service's full name",
        );
        ledger.judge(rule, self.reflected()).await;
    }

    /// Waits while the service says that it is not ready: it may be loading its model.
    async fn serving(&self, name: &str) -> Seen {
        loop {
            let request = HealthCheckRequest {
                service: name.to_owned(),
            };
            let reply = HealthClient::new(self.channel.clone())
                .check(request)
                .await?;
            match reply.into_inner().status() {
                ServingStatus::Serving => return Ok("SERVING".to_owned()),
                ServingStatus::NotServing => tokio::time::sleep(LOADING_PAUSE).await,
                other => return Err(Miss::broken(other.as_str_name())),
            }
        }
    }

    async fn reflected(&self) -> Seen {
        let listed = services(self.channel).await?;
        let is_there = listed.iter().any(|name| name == self.name);
        holds(
            is_there,
            format!("{} services, not {}", listed.len(), self.name),
        )?;
        Ok(format!("listed among {} services", listed.len()))
    }
}

/// The full names of the services at an endpoint, by reflection.
pub(super) async fn services(channel: &Channel) -> Result<Vec<String>, Miss> {
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut client = ServerReflectionClient::new(channel.clone());
    let reply = client
        .server_reflection_info(stream::iter([request]))
        .await?;
    let message = reply.into_inner().message().await?;
    match message.and_then(|message| message.message_response) {
        Some(MessageResponse::ListServicesResponse(list)) => Ok(list
            .service
            .into_iter()
            .map(|service| service.name)
            .collect()),
        _ => Err(Miss::broken("it did not list its services")),
    }
}

/// Rules on what an endpoint says it can do; `None` where it does not say.
pub(super) async fn capabilities(
    ledger: &mut Ledger,
    subject: Subject,
    call: impl Future<Output = Result<Option<Capabilities>, tonic::Status>>,
) -> Option<Capabilities> {
    let reply = tokio::time::timeout(ledger.limit(), call).await;
    let reply = reply.unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("no answer")));
    let rule = Rule::must(
        "capabilities",
        "GetCapabilities names the service and, where requests hold items, how many one may hold.",
        "fill Capabilities.service with the full gRPC name and max_items_per_request with your bound",
    );
    let told = match reply {
        Err(status) => {
            ledger.note(rule, Err(status.into()));
            return None;
        }
        Ok(told) => told.unwrap_or_default(),
    };
    ledger.note(rule, named(&told, subject));
    let rule = Rule::should(
        "model_hashes",
        "Each model in the capabilities has a name and its SHA-256.",
        "hash weights and configuration once at the start; lower-case hexadecimal",
    );
    ledger.note(rule, hashed(&told));
    Some(told)
}

fn named(told: &Capabilities, subject: Subject) -> Seen {
    let right = told.service == subject.grpc_name();
    holds(right, format!("it calls itself {:?}", told.service))?;
    let has_items = subject != Subject::Trainer;
    let bounded = !has_items || told.max_items_per_request > 0;
    holds(bounded, "max_items_per_request is 0")?;
    Ok(format!(
        "back-end {:?}, {} models, {} items per request",
        told.backend,
        told.models.len(),
        told.max_items_per_request
    ))
}

fn hashed(told: &Capabilities) -> Seen {
    if told.models.is_empty() {
        return Err(Miss::not_judged("it names no model"));
    }
    let wrong = told
        .models
        .iter()
        .find(|model| model.name.is_empty() || !is_sha256(&model.sha256));
    match wrong {
        Some(model) => Err(Miss::broken(format!(
            "{:?} has {:?}",
            model.name, model.sha256
        ))),
        None => Ok(format!("{} of {}", told.models.len(), told.models.len())),
    }
}

/// Asks for a page of a size from a token on: the names in it, and the next token.
pub(super) trait Page:
    AsyncFn(u32, String) -> Result<(Vec<String>, String), tonic::Status>
{
}

impl<F: AsyncFn(u32, String) -> Result<(Vec<String>, String), tonic::Status>> Page for F {}

/// Rules on a list in pages.
pub(super) async fn paging(ledger: &mut Ledger, what: &str, page: impl Page) {
    let rule = Rule::must(
        &format!("paging_of_{what}"),
        "Pages of one follow each other by token, hold one entry each, and together are the list.",
        "honour page_size and page_token, and leave next_page_token empty on the last page",
    );
    ledger.judge(rule, pages_of_one(what, &page)).await;
    let refusal = Refusal::invalid(
        format!("foreign_page_token_of_{what}"),
        "A page token that the call did not give",
        "page_token",
    );
    ledger
        .refused(refusal, page(0, "no such token".to_owned()))
        .await;
    let refusal = Refusal::invalid(
        format!("page_size_bound_of_{what}"),
        "A page size over 100",
        "page_size",
    );
    ledger
        .refused(refusal.advised(), page(101, String::new()))
        .await;
}

/// Pages of one that are walked at most; a job store may hold many jobs.
const MAX_PAGES: usize = 20;

async fn pages_of_one(what: &str, page: &impl Page) -> Seen {
    let (all, _) = page(0, String::new()).await?;
    let mut walked = Vec::new();
    let mut token = String::new();
    loop {
        let (names, next) = page(1, token).await?;
        holds(
            names.len() <= 1,
            format!("a page of one holds {}", names.len()),
        )?;
        walked.extend(names);
        token = next;
        if token.is_empty() || walked.len() == MAX_PAGES {
            break;
        }
    }
    holds(
        all.starts_with(&walked),
        format!("the pages give {walked:?}, the list {all:?}"),
    )?;
    let is_whole = !token.is_empty() || walked.len() == all.len();
    holds(
        is_whole,
        format!("{} of {} {what} in pages of one", walked.len(), all.len()),
    )?;
    Ok(format!("{} {what} in pages of one", walked.len()))
}
