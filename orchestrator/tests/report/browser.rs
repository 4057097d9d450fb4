//! The page in Chromium, at the widths of a desk and of a telephone.

use std::path::Path;
use std::process::Command;

use diptych::report;
use serde::Deserialize;

use super::fixture;

/// Runs before anything else in the page: collects what goes wrong, and tells the frame around it
/// what came of the page. `details` are opened first, since folded pictures are not loaded.
const PROBE: &str = r#"<script>
const wrong = [];
addEventListener("error", event => wrong.push(String(event.message || event.target.outerHTML).slice(0, 200)), true);
for (const level of ["error", "warn"]) console[level] = (...words) => wrong.push(words.join(" "));
addEventListener("load", async () => {
  document.querySelectorAll("details").forEach(fold => { fold.open = true; });
  const images = [...document.images];
  await Promise.all(images.map(image => image.decode().catch(() => wrong.push("broken image: " + image.alt))));
  const page = document.documentElement;
  const plot = document.getElementById("loss-plot");
  plot.focus();
  plot.dispatchEvent(new KeyboardEvent("keydown", { key: "Home" }));
  parent.postMessage({
    wrong,
    width_px: innerWidth,
    overflow_px: page.scrollWidth - page.clientWidth,
    image_count: images.filter(image => image.naturalWidth > 0).length,
    sections: [...document.querySelectorAll("main section")].map(section => section.id),
    tip: plot.querySelector(".tip").innerText,
    bar_px: document.querySelector(".bars .bar").getBoundingClientRect().width,
    ran: typeof alerted,
  }, "*");
});
</script>"#;

/// Shows the page in two frames and writes down what they say. The base64 keeps the answer out of
/// the reach of HTML's own escaping.
const FRAMES: &str = r#"<!doctype html><body><script>
addEventListener("message", event => {
  const answer = document.createElement("pre");
  answer.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(event.data))));
  document.body.append(answer);
});
for (const width of [390, 1280]) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = "report.html";
  document.body.append(frame);
}
</script></body>"#;

#[derive(Debug, Deserialize)]
struct Seen {
    wrong: Vec<String>,
    width_px: u32,
    overflow_px: i32,
    image_count: usize,
    sections: Vec<String>,
    tip: String,
    bar_px: f64,
    ran: String,
}

#[test]
fn a_browser_shows_the_whole_report_on_a_desk_and_on_a_telephone() {
    let mut report = fixture::report();
    report.pairs[0].prompt = "</p><script>window.alerted = 1</script>".into();
    report.training_runs[1].label = "</script><script>window.alerted = 1</script>".into();
    let picture_count =
        report.pairs.len() + report.exchanges.len() + report.rejected_pairs.len() - 1;
    let mut seen = look_at(&report::render(&report));
    seen.sort_by_key(|s| s.width_px);
    assert_eq!(
        seen.iter().map(|s| s.width_px).collect::<Vec<_>>(),
        [390, 1280]
    );
    for seen in seen {
        assert!(seen.wrong.is_empty(), "{:?}", seen.wrong);
        assert!(
            seen.overflow_px <= 0,
            "{} px wider than the window of {} px",
            seen.overflow_px,
            seen.width_px
        );
        assert_eq!(seen.image_count, picture_count);
        assert_eq!(
            seen.sections,
            [
                "pairs", "scores", "answers", "training", "rejected", "record"
            ]
        );
        assert!(
            seen.tip.starts_with("step 0") && seen.tip.contains("synthetic"),
            "the cursor says {:?}",
            seen.tip
        );
        assert!(seen.bar_px > 40.0, "a bar of {} px", seen.bar_px);
        assert_eq!(seen.ran, "undefined", "text of the report ran as a script");
    }
}

fn look_at(html: &str) -> Vec<Seen> {
    let folder = tempfile::tempdir().expect("a folder");
    let probed = html.replacen("<head>", &format!("<head>{PROBE}"), 1);
    std::fs::write(folder.path().join("report.html"), probed).expect("written");
    std::fs::write(folder.path().join("frames.html"), FRAMES).expect("written");
    dom(
        &folder.path().join("frames.html"),
        &folder.path().join("profile"),
    )
    .split("<pre>")
    .skip(1)
    .map(|answer| {
        use base64::Engine;
        let answer = answer.split("</pre>").next().expect("text before the end");
        let json = base64::engine::general_purpose::STANDARD
            .decode(answer)
            .expect("base64");
        serde_json::from_slice(&json).expect("an answer")
    })
    .collect()
}

/// The document after its scripts ran. `CHROMIUM` names another browser of that family.
fn dom(page: &Path, profile: &Path) -> String {
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "chromium".into());
    let output = Command::new(&browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
        ])
        .args([
            "--window-size=1700,1000",
            "--virtual-time-budget=20000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .unwrap_or_else(|error| {
            panic!("cannot start {browser} (Debian package chromium): {error}")
        });
    assert!(
        output.status.success(),
        "{browser}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
