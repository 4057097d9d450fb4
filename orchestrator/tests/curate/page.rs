//! A page that is served, spoken to over a socket as a browser does.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;

/// The program and its page; it is killed when dropped.
pub(crate) struct Page {
    child: Child,
    out: BufReader<ChildStdout>,
    host: String,
    path: String,
}

pub(crate) type Header = (&'static str, String);

impl Page {
    /// Starts the program and waits until it says where the page is.
    pub(crate) fn open(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        out.read_line(&mut address).unwrap();
        let rest = address.trim().strip_prefix("http://").unwrap_or_default();
        let (host, path) = rest
            .split_once('/')
            .unwrap_or_else(|| panic!("no address: {address:?}"));
        Self {
            host: host.to_owned(),
            path: format!("/{path}"),
            child,
            out,
        }
    }

    /// What the page itself says of where it comes from.
    pub(crate) fn own(&self) -> [Header; 2] {
        let origin = format!("http://{}", self.host);
        [("Host", self.host.clone()), ("Origin", origin)]
    }

    /// Where a browser finds it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}{}", self.host, self.path)
    }

    pub(crate) fn state(&self) -> Value {
        let (status, body) = self.get_at(&format!("{}state", self.path), &self.own());
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.try_post(path, &body.to_string(), &self.own());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub(crate) fn try_post(&self, path: &str, body: &str, headers: &[Header]) -> (u16, String) {
        self.send("POST", &format!("{}{path}", self.path), headers, body)
    }

    pub(crate) fn get_at(&self, path: &str, headers: &[Header]) -> (u16, String) {
        self.send("GET", path, headers, "")
    }

    fn send(&self, method: &str, path: &str, headers: &[Header], body: &str) -> (u16, String) {
        let headers: String = headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(&self.host).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, body.to_owned())
    }

    /// Ends the program without warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Waits for the program's own end, and gives what it said.
    pub(crate) fn ended(mut self) -> String {
        let mut said = String::new();
        self.out.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success());
        said
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
