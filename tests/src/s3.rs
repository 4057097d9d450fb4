//! A real S3 server process for one test.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::checkout;

/// moto's server with a bucket named `pairs`; it is killed when dropped.
#[derive(Debug)]
pub struct S3 {
    child: Child,
    port: u16,
}

/// Name of the one bucket.
pub const BUCKET: &str = "pairs";

impl S3 {
    /// Starts one on a free port.
    ///
    /// # Panics
    /// Python or moto is missing: `make tools` installs them.
    pub fn start() -> Self {
        let mut child = Command::new(python())
            .arg(checkout().join("tests/fixtures/s3_server.py"))
            .env("AWS_ACCESS_KEY_ID", "none")
            .env("AWS_SECRET_ACCESS_KEY", "none")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python of the tests' environment runs: `make tools` installs it");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("the server says its port");
        let port = line
            .trim()
            .parse()
            .expect("moto is installed: `make tools`");
        let server = Self { child, port };
        server.ask("PUT", &format!("/{BUCKET}"));
        server
    }

    /// `http://…` of the server.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What AWS's own tools, and we, read from the environment.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "none".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "none".to_owned()),
        ]
    }

    /// The next object whose name holds `part` will be written and its reply lost.
    pub fn lose_next_reply(&self, part: &str) {
        self.ask("PUT", &format!("/-/lose-next?{part}"));
    }

    /// Replies that were lost.
    ///
    /// # Panics
    /// The server does not answer.
    pub fn lost_reply_count(&self) -> u32 {
        let reply = self.ask("GET", "/-/lost");
        let count = reply.rsplit("\r\n\r\n").next().unwrap_or_default();
        count.trim().parse().expect("a number of lost replies")
    }

    fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .expect("the server reads");
        let mut reply = String::new();
        stream
            .read_to_string(&mut reply)
            .expect("the server answers");
        assert!(reply.contains(" 200 "), "{method} {path}: {reply}");
        reply
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that the test command prepared.
///
/// # Panics
/// `DIPTYCH_PYTHON` is not set: `scripts/test.sh` sets it.
pub fn python() -> PathBuf {
    let python = std::env::var_os("DIPTYCH_PYTHON");
    python
        .expect("DIPTYCH_PYTHON names a Python with scripts/requirements-test.txt installed")
        .into()
}
