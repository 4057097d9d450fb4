//! Programs of the suite, started as users start them.

use std::{
    hash::{Hash as _, Hasher as _},
    io::{BufRead as _, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

/// Longest wait for a program to say where it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Asks for a free port, and stands for the address until the service has said its own.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A service in a process of its own; it is killed when dropped.
#[derive(Debug)]
pub struct Service {
    name: String,
    command: Command,
    child: Child,
    address: SocketAddr,
}

/// The checkout under test.
pub fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .expect("the crate lies one folder below the root")
        .to_path_buf()
}

/// Assets whose models are the small random ones that the models' own tests use, in the layouts
/// of the real ones: what is tested here is the way through the suite, not how well it paints.
///
/// # Panics
/// The folder cannot be made.
pub fn assets() -> PathBuf {
    let checkout = checkout();
    let fixtures = checkout.join("crates/models/tests/fixtures");
    let folder = build_folder().join(format!("test-assets-{:016x}", hash(&checkout)));
    let nano = folder.join("models/nano");
    std::fs::create_dir_all(&nano).expect("a folder beside the programs");
    let links = [
        (checkout.join("abilities"), folder.join("abilities")),
        (checkout.join("models/nano/base"), nano.join("base")),
        (
            checkout.join("models/nano/bench-real"),
            nano.join("bench-real"),
        ),
        (fixtures.join("sd/tiny"), nano.join("nano-sd")),
        (fixtures.join("sd/clip"), nano.join("nano-clip")),
        (fixtures.join("llava"), nano.join("nano-llava")),
    ];
    for (target, link) in links {
        match std::os::unix::fs::symlink(&target, &link) {
            Ok(()) => {}
            // Another test was here first; the name of the folder says that it meant the same.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => panic!("cannot link {}: {error}", link.display()),
        }
    }
    folder
}

fn hash(path: &Path) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// Where the programs of the build that made this one lie: a test lies in `deps` beside them.
fn build_folder() -> PathBuf {
    let this = std::env::current_exe().expect("a running program knows its own file");
    let folder = this.parent().expect("a file lies in a folder");
    match folder.ends_with("deps") {
        true => folder.parent().expect("deps lies in target/<profile>"),
        false => folder,
    }
    .to_path_buf()
}

/// A program of the suite, from the build that made this test.
///
/// # Panics
/// It was not built: `cargo build --release --bins` does that.
pub fn program(name: &str) -> Command {
    let path = build_folder().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --release --bins`",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .env("DIPTYCH_ASSETS", assets())
        .env_remove("REDIS_URL")
        .env_remove("OTEL_EXPORTER_OTLP_ENDPOINT");
    command
}

/// Runs a program to its end and asserts that it succeeded.
///
/// # Panics
/// It failed; its stderr is shown.
pub fn finished(mut command: Command) -> Output {
    let output = command.output().expect("the program starts");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{command:?} ended with {}:\n{complaint}",
        output.status
    );
    output
}

/// Waits until a synthesis has committed a first partition, under its final name, into the folder
/// of its dataset, and has others to make.
///
/// # Panics
/// It ended before.
pub fn wait_for_first_partition(synthesis: &mut Child, dataset: &Path) {
    while !holds_an_object(&dataset.join("manifest")) {
        let ended = synthesis.try_wait().expect("a child can be asked");
        assert!(ended.is_none(), "it ended before it was disturbed");
        std::thread::yield_now();
    }
}

fn holds_an_object(folder: &Path) -> bool {
    let Ok(mut entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.any(|entry| {
        let path = entry.expect("an entry").path();
        path.extension()
            .is_some_and(|extension| extension == "json")
    })
}

impl Service {
    /// Starts a service on a free port and waits until it says where it listens.
    ///
    /// # Panics
    /// It ends, or says nothing in time.
    pub fn start(name: &str, configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = program(name);
        command
            .env("DIPTYCH_LISTEN", NOWHERE.to_string())
            .env("DIPTYCH_LOG_FORMAT", "json")
            .stderr(Stdio::piped());
        configure(&mut command);
        // From here on the child is killed when the test ends, however it ends.
        let mut service = Self {
            name: name.to_owned(),
            child: command.spawn().expect("the service starts"),
            command,
            address: NOWHERE,
        };
        service.learn_address();
        service
    }

    /// Kills the service without warning, as a lost node does, and starts it again on the same
    /// port.
    ///
    /// # Panics
    /// It has ended already, or does not come back.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().expect("the service runs until now");
        self.child.wait().expect("the service ends");
        self.command.env("DIPTYCH_LISTEN", self.address.to_string());
        self.child = self.command.spawn().expect("the service starts again");
        self.learn_address();
    }

    fn learn_address(&mut self) {
        let stderr = self.child.stderr.take().expect("stderr is piped");
        let (found, address) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if let Some(address) = listening(&line) {
                    // The test may have given up already.
                    let _ = found.send(address);
                } else if std::env::var_os("DIPTYCH_TEST_LOG").is_some() {
                    eprintln!("{line}");
                }
            }
        });
        let name = &self.name;
        self.address = address
            .recv_timeout(START_TIMEOUT)
            .unwrap_or_else(|error| panic!("{name} did not say where it listens: {error}"));
    }

    /// `http://…` of the service.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `name=http://…`, as `--endpoints` wants it.
    pub fn named_endpoint(&self) -> String {
        format!("{}={}", self.name, self.endpoint())
    }

    /// Asks the service to stop, as Kubernetes does, and waits for its end.
    ///
    /// # Panics
    /// The signal cannot be sent, or the service ended with an error.
    pub fn stop(mut self) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        let status = self.child.wait().expect("the service ends");
        assert!(status.success(), "{} ended with {status}", self.name);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listening(line: &str) -> Option<SocketAddr> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    (entry["message"] == "listening").then(|| entry["address"].as_str()?.parse().ok())?
}
