//! The one room that knows the service libraries: starts them in this process, on sockets, so
//! that everything else speaks to them as any client would.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, bail};
#[cfg(feature = "embedded")]
use clap::Parser as _;
use futures::{FutureExt as _, future};
#[cfg(feature = "embedded")]
use runtime::options::ArtefactOptions;
use runtime::{Handle, Listener, Telemetry, options::ListenOptions};
#[cfg(feature = "embedded")]
use tokio_util::sync::CancellationToken;

#[cfg(feature = "embedded")]
use crate::bad_input::flattened;
use crate::{
    assets::Assets,
    cli::Global,
    suite::{Needs, ServiceName},
};

/// Services running in this process.
#[derive(Debug, Default)]
pub(crate) struct Embedded {
    running: BTreeMap<ServiceName, Running>,
}

#[derive(Debug)]
struct Running {
    handle: Handle,
    telemetry: Telemetry,
}

impl Embedded {
    /// Starts services on free loopback ports and waits until they are ready.
    pub(crate) async fn start(
        global: &Global,
        assets: &Assets,
        needs: &Needs,
        names: &[ServiceName],
    ) -> Result<Self> {
        let mut embedded = Self::default();
        for &name in names {
            let listen = ListenOptions::default();
            embedded.add(name, &listen, global, assets, needs).await?;
        }
        embedded.ready(needs).await?;
        Ok(embedded)
    }

    /// Starts all services of `needs` for other processes: on five ports from the given one on.
    pub(crate) async fn serve(
        global: &Global,
        assets: &Assets,
        needs: &Needs,
        listen: &ListenOptions,
    ) -> Result<Self> {
        let mut embedded = Self::default();
        for (index, &name) in (0_u16..).zip(&needs.services) {
            let options = ListenOptions {
                listen: Some(following(listen.listen, index)),
                health_listen: listen
                    .health_listen
                    .map(|address| following(Some(address), index)),
                ..listen.clone()
            };
            embedded.add(name, &options, global, assets, needs).await?;
        }
        embedded.ready(needs).await?;
        Ok(embedded)
    }

    /// Where each service listens.
    pub(crate) fn endpoints(&self) -> BTreeMap<ServiceName, String> {
        self.running
            .iter()
            .map(|(&name, running)| (name, running.handle.endpoint()))
            .collect()
    }

    /// Waits for a signal to stop, or for a service that ended by itself, then stops all services.
    ///
    /// # Errors
    /// A service that ended by itself, or with an error.
    pub(crate) async fn wait(self) -> Result<()> {
        let running = self.running.iter();
        let closed = running.map(|(&name, running)| running.handle.closed().map(move |()| name));
        let lost = tokio::select! {
            () = runtime::stop_signal().cancelled_owned() => None,
            (name, ..) = future::select_all(closed.map(Box::pin)) => Some(name),
        };
        self.close().await?;
        match lost {
            None => Ok(()),
            Some(name) => bail!("the {name} service ended by itself; its log says why"),
        }
    }

    /// Stops all services and waits for them to drain.
    pub(crate) async fn close(self) -> Result<()> {
        for running in self.running.values() {
            running.handle.stop();
        }
        let mut ended = Ok(());
        for (name, Running { handle, telemetry }) in self.running {
            let end = handle.wait().await;
            let end = end.with_context(|| format!("the {name} service"));
            telemetry.shutdown().await;
            ended = ended.and(end);
        }
        ended
    }

    async fn ready(&mut self, needs: &Needs) -> Result<()> {
        for (&name, running) in &mut self.running {
            let ready = running.handle.ready().await;
            ready
                .map_err(|error| misconfigured(error, name, needs))
                .with_context(|| format!("the {name} service did not start"))?;
        }
        Ok(())
    }

    async fn add(
        &mut self,
        name: ServiceName,
        listen: &ListenOptions,
        global: &Global,
        assets: &Assets,
        needs: &Needs,
    ) -> Result<()> {
        let telemetry = Telemetry::start(&global.telemetry, name.as_str())?;
        let listener = Listener::bind(listen, 0).await?;
        let bytes = listen.max_message_bytes;
        let starting = start(name, listener, &telemetry, global, assets, needs, bytes);
        let handle = starting
            .await
            .with_context(|| format!("the {name} service did not start"))?;
        self.running.insert(name, Running { handle, telemetry });
        Ok(())
    }
}

/// The `index`-th port after the given one; a free port stays a free port.
fn following(address: Option<SocketAddr>, index: u16) -> SocketAddr {
    let mut address = address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], FIRST_PORT)));
    if address.port() != 0 {
        address.set_port(address.port().saturating_add(index));
    }
    address
}

/// Port of the first service that `diptych up` starts when no address is given.
const FIRST_PORT: u16 = 50051;

#[cfg(feature = "embedded")]
async fn start(
    name: ServiceName,
    listener: Listener,
    telemetry: &Telemetry,
    global: &Global,
    assets: &Assets,
    needs: &Needs,
    bytes: usize,
) -> Result<Handle> {
    let artefacts = ArtefactOptions {
        artefact_roots: needs.artefact_roots.clone(),
    };
    let (root, cache) = (assets.root().to_path_buf(), global.cache.clone());
    let stop = CancellationToken::new();
    let handle = match name {
        ServiceName::Promptgen => {
            let options = match asked_backend(name, needs) {
                "" | "grammar" => promptgen::Options::for_assets(root),
                backend => {
                    let arguments =
                        promptgen::Arguments::try_parse_from(backend_arguments(name, backend));
                    let mut found = arguments.map_err(|error| flattened(&error))?.service();
                    refuse_several_lists(found.keyword_count, needs.shard_count)?;
                    name_model(&mut found.local.path, global);
                    promptgen::Options {
                        abilities: root.join("abilities"),
                        assets: root,
                        journal: journal(name, needs)?.or(found.journal.clone()),
                        ..found
                    }
                }
            };
            let asked = &needs.measuring.embedding_model;
            let options = promptgen::Options {
                embedding_model: match asked.is_empty() {
                    true => options.embedding_model.clone(),
                    false => asked.clone(),
                },
                cache,
                max_message_bytes: bytes,
                ..options
            };
            let started = promptgen::start(options, listener, telemetry, stop).await;
            started.map_err(|error| misconfigured(error, name, needs))?
        }
        ServiceName::Diffusion => {
            let models = image_model(&needs.image_model, &root)?;
            let options = diffusion::Options {
                assets: Some(root),
                models,
                artefacts,
                cache,
                ..diffusion::Options::default()
            };
            let options = crate::measuring::equip(options, &needs.measuring)?;
            let started = diffusion::start(options, telemetry, listener, bytes, stop).await;
            started.map_err(|error| misconfigured(error, name, needs))?
        }
        ServiceName::Dialogue => {
            let options = match asked_backend(name, needs) {
                "" | "grammar" => dialogue::Options::for_assets(root),
                backend => {
                    let arguments =
                        dialogue::Arguments::try_parse_from(backend_arguments(name, backend));
                    let mut found = arguments.map_err(|error| flattened(&error))?.service();
                    name_model(&mut found.local.path, global);
                    dialogue::Options {
                        abilities: root.join("abilities"),
                        journal: journal(name, needs)?.or(found.journal.clone()),
                        ..found
                    }
                }
            };
            let options = dialogue::Options {
                max_message_bytes: bytes,
                ..options
            };
            let started = dialogue::start(options, listener, telemetry, stop).await;
            started.map_err(|error| misconfigured(error, name, needs))?
        }
        ServiceName::Trainer => {
            let options = trainer::Options {
                assets: root,
                artefacts,
                ..trainer::Options::default()
            };
            trainer::start(options, telemetry, listener, bytes, stop).await?
        }
        ServiceName::Eval => {
            let options = eval::Options {
                assets: Some(root),
                artefacts,
                cache,
                ..eval::Options::default()
            };
            eval::start(options, telemetry, listener, bytes, stop).await?
        }
    };
    Ok(handle)
}

#[cfg(feature = "embedded")]
fn asked_backend(name: ServiceName, needs: &Needs) -> &str {
    needs.backends.get(&name).map_or("", String::as_str)
}

/// The command line of a service with a back-end of its own; where the language model is, its key
/// and its bounds come from the environment, by the names that the service's --help lists.
#[cfg(feature = "embedded")]
fn backend_arguments(name: ServiceName, backend: &str) -> [&str; 3] {
    [name.as_str(), "--backend", backend]
}

/// Keywords that a language model lists are asked for once per process: several would order their
/// slots by other lists, and a partition would depend on who makes it.
#[cfg(feature = "embedded")]
fn refuse_several_lists(keyword_count: usize, shard_count: u32) -> Result<()> {
    if keyword_count == 0 || shard_count == 1 {
        return Ok(());
    }
    let several = anyhow::anyhow!(
        "with DIPTYCH_PROMPTGEN_KEYWORD_COUNT the language model lists keywords, and each of {shard_count} \
         shares would get another list: start one promptgen with a --journal and name it in --endpoints \
         of all shares, or make the dataset with --shard-count 1"
    );
    Err(several.context(crate::bad_input::BadInput))
}

/// Puts in the language model that the command line names.
#[cfg(feature = "embedded")]
fn name_model(path: &mut Option<std::path::PathBuf>, global: &Global) {
    if let Some(named) = &global.language_model {
        *path = Some(named.clone());
    }
}

/// Marks what a service refuses as the caller's where the caller chose it: a back-end that the recipe
/// asks for and whose model nobody named, a model that was named and does not load.
fn misconfigured(error: runtime::StartError, name: ServiceName, needs: &Needs) -> anyhow::Error {
    use runtime::StartError::{Options, WarmUp};
    let backend = needs.backends.get(&name).map(String::as_str);
    let is_of_input = match error {
        Options(_) => backend.is_some() || names_model(name, needs),
        // Only the language model is left to wait for there; one elsewhere may answer a minute later.
        WarmUp { .. } if matches!(name, ServiceName::Promptgen | ServiceName::Dialogue) => {
            backend == Some("local")
        }
        WarmUp { .. } => names_model(name, needs),
        _ => false,
    };
    let error = anyhow::Error::from(error);
    match is_of_input {
        true => error.context(crate::bad_input::BadInput),
        false => error,
    }
}

/// Whether the caller named a model that a service is to load.
fn names_model(name: ServiceName, needs: &Needs) -> bool {
    let measuring = &needs.measuring;
    let is_given = |model: &String| !model.is_empty() && !model.starts_with("builtin:");
    // `builtin:nano-sd+FILE` is the built-in one with the caller's file.
    let image_model = Some(&needs.image_model).filter(|model| *model != BUILTIN_IMAGE_MODEL);
    let models = match name {
        ServiceName::Promptgen => vec![&measuring.embedding_model],
        ServiceName::Diffusion => vec![&measuring.scoring_model, &measuring.safety_model],
        ServiceName::Dialogue | ServiceName::Trainer | ServiceName::Eval => Vec::new(),
    };
    let is_image = name == ServiceName::Diffusion;
    let has_safety = is_image && std::env::var_os("DIPTYCH_SAFETY_MODEL").is_some();
    models.into_iter().any(is_given)
        || (is_image && image_model.is_some_and(|model| !model.is_empty()))
        || has_safety
}

/// The file in which a service keeps what its language model answered. One in this process answers
/// the same again, and needs none.
#[cfg(feature = "embedded")]
fn journal(name: ServiceName, needs: &Needs) -> Result<Option<std::path::PathBuf>> {
    let folder = needs.journals.as_ref();
    let Some(folder) = folder.filter(|_| asked_backend(name, needs) == "openai") else {
        return Ok(None);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot write the folder {}", folder.display()))?;
    let journal = format!("{name}.jsonl");
    crate::journals::name_others(folder, &journal)?;
    Ok(Some(folder.join(journal)))
}

/// The image model that comes with the suite.
const BUILTIN_IMAGE_MODEL: &str = "builtin:nano-sd";

/// A checkpoint to serve beside the built-in model, and before it: `MODEL[+LORA[:SCALE]]…`, where the
/// model is a folder or built in.
#[cfg(feature = "embedded")]
fn image_model(
    model: &str,
    assets: &std::path::Path,
) -> Result<Vec<runtime::options::NamedFolder>> {
    if model.is_empty() || model == BUILTIN_IMAGE_MODEL {
        return Ok(Vec::new());
    }
    let refused = |sentence: String| anyhow::anyhow!(sentence).context(crate::bad_input::BadInput);
    let mut path: diffusion::ModelPath = model.parse().map_err(refused)?;
    if path.folder == std::path::Path::new(BUILTIN_IMAGE_MODEL) {
        path.folder = assets.join("models/nano/nano-sd");
    } else if model.starts_with("builtin:") {
        return Err(refused(format!(
            "there is no built-in image model `{model}`, only {BUILTIN_IMAGE_MODEL}"
        )));
    }
    path.folder = std::path::absolute(&path.folder)?;
    if !path.folder.is_dir() {
        let folder = path.folder.display();
        return Err(refused(format!("there is no model folder {folder}")));
    }
    if let Some(lora) = path.loras.iter().find(|lora| !lora.file.is_file()) {
        let file = lora.file.display();
        return Err(refused(format!("there is no LoRA file {file}")));
    }
    Ok(vec![runtime::options::NamedFolder {
        name: model.to_owned(),
        folder: path.to_string().into(),
    }])
}

#[cfg(not(feature = "embedded"))]
async fn start(
    name: ServiceName,
    _listener: Listener,
    _telemetry: &Telemetry,
    _global: &Global,
    _assets: &Assets,
    _needs: &Needs,
    _bytes: usize,
) -> Result<Handle> {
    anyhow::bail!("this build links no services; pass --endpoints {name}=URL")
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;

    #[test]
    fn shares_with_a_promptgen_each_do_not_list_keywords() {
        assert!(refuse_several_lists(0, 3).is_ok());
        assert!(refuse_several_lists(40, 1).is_ok());
        let refused = refuse_several_lists(40, 3).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(
            refused.contains("each of 3 shares") && refused.contains("--endpoints"),
            "{refused}"
        );
    }
}
