//! A real Redis for one test.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A redis-server of the test's own; it is killed when dropped.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    address: SocketAddr,
    folder: tempfile::TempDir,
}

const START_TIMEOUT: Duration = Duration::from_secs(20);

impl Redis {
    /// Starts one on a free port and waits until it answers.
    ///
    /// # Panics
    /// redis-server is not installed, or does not answer.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let address = free_address();
        let redis = Self {
            child: spawn(address, folder.path()),
            address,
            folder,
        };
        redis.wait_until_it_answers();
        redis
    }

    /// Kills it without warning and starts it again, empty, on the same port.
    ///
    /// # Panics
    /// It is gone already, or does not come back.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.child = spawn(self.address, self.folder.path());
        self.wait_until_it_answers();
    }

    fn wait_until_it_answers(&self) {
        let started_at = Instant::now();
        while !self.answers() {
            assert!(
                started_at.elapsed() < START_TIMEOUT,
                "redis-server does not answer"
            );
            std::thread::yield_now();
        }
    }

    /// `redis://…`, for `REDIS_URL`.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// Kills it without warning.
    ///
    /// # Panics
    /// It is gone already.
    pub fn kill(&mut self) {
        self.child.kill().expect("redis-server runs until now");
        let _ = self.child.wait();
    }

    /// Number of keys it holds.
    ///
    /// # Panics
    /// It does not answer.
    pub fn key_count(&self) -> u64 {
        let reply = self.ask("DBSIZE\r\n").expect("redis-server answers");
        reply
            .trim()
            .trim_start_matches(':')
            .parse()
            .expect("DBSIZE answers with a number")
    }

    fn answers(&self) -> bool {
        self.ask("PING\r\n")
            .is_ok_and(|reply| reply.starts_with("+PONG"))
    }

    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(command.as_bytes())?;
        let mut reply = [0; 128];
        let length = stream.read(&mut reply)?;
        Ok(String::from_utf8_lossy(&reply[..length]).into_owned())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The test may have killed it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(address: SocketAddr, folder: &Path) -> Child {
    Command::new("redis-server")
        .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--appendonly", "no", "--dir"])
        .arg(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server runs: install Debian's package redis-server")
}

/// An address that was free a moment ago; redis-server cannot be told to choose one.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address")
}
