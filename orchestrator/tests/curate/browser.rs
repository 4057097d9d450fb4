//! A browser that is told what to do over a pipe, by the DevTools protocol.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// Longest wait for an answer: a browser takes its time to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

/// A browser without a window; it is killed when dropped.
pub(crate) struct Browser {
    child: Child,
    commands: File,
    answers: Receiver<Value>,
    count: u64,
}

/// An open page of it.
pub(crate) struct Tab {
    target: String,
    session: String,
}

impl Browser {
    /// Starts the browser with a profile of its own. `CHROMIUM` names another one of that family.
    pub(crate) fn start(folder: &Path) -> Self {
        let pipes = ["commands", "answers"].map(|name| folder.join(name));
        let made = Command::new("mkfifo").args(&pipes).status().unwrap();
        assert!(made.success());
        // Opened both ways, so that neither side waits for the other.
        let [commands, answers] = pipes.each_ref().map(|pipe| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).open(pipe).unwrap()
        });
        let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
        let start = r#"exec "$0" --headless --no-sandbox --disable-gpu --no-first-run \
            --disable-background-networking --remote-debugging-pipe --user-data-dir="$3" 3<>"$1" 4<>"$2""#;
        let child = Command::new("sh")
            .args(["-c", start, &browser])
            .args(&pipes)
            .arg(folder.join("profile"))
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("cannot start {browser} (Debian package chromium): {error}")
            });
        Self {
            child,
            commands,
            answers: read(answers),
            count: 0,
        }
    }

    /// Opens a page.
    pub(crate) fn open(&mut self, url: &str) -> Tab {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let empty = json!({ "url": "about:blank" });
        let opened = self.call("Target.createTarget", empty, None);
        let target = text(&opened["targetId"]);
        let attach = json!({ "targetId": target, "flatten": true });
        let attached = self.call("Target.attachToTarget", attach, None);
        let session = text(&attached["sessionId"]);
        let tab = Tab { target, session };
        self.go(&tab, url);
        tab
    }

    /// Shows another page in the place of the one that a tab shows, and returns once it does.
    pub(crate) fn go(&mut self, tab: &Tab, url: &str) {
        self.call("Page.navigate", json!({ "url": url }), Some(&tab.session));
    }

    /// Runs a script in a page, and gives what its promise comes to.
    pub(crate) fn run(&mut self, tab: &Tab, script: &str) -> Value {
        let script = json!({
            "expression": script, "awaitPromise": true, "returnByValue": true,
        });
        let answer = self.call("Runtime.evaluate", script, Some(&tab.session));
        assert!(answer["exceptionDetails"].is_null(), "{answer}");
        answer["result"]["value"].clone()
    }

    /// Closes a page as its cross does.
    pub(crate) fn close(&mut self, tab: Tab) {
        let target = json!({ "targetId": tab.target });
        self.call("Target.closeTarget", target, None);
    }

    fn call(&mut self, method: &str, parameters: Value, session: Option<&str>) -> Value {
        self.count += 1;
        let mut command = json!({ "id": self.count, "method": method, "params": parameters });
        if let Some(session) = session {
            command["sessionId"] = session.into();
        }
        let mut bytes = command.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap();
        loop {
            let answer = self.answers.recv_timeout(DEADLINE);
            let answer =
                answer.unwrap_or_else(|_| panic!("the browser gives no answer to {method}"));
            if answer["id"] == self.count {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
        }
    }
}

/// Messages end with a zero; the thread ends with the test.
fn read(pipe: File) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut messages = BufReader::new(pipe).split(0);
        while let Some(Ok(message)) = messages.next() {
            let Ok(message) = serde_json::from_slice(&message) else {
                return;
            };
            if sender.send(message).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
