//! Pieces of HTML: escaping, figures, pictures, folds.

use std::fmt::{self, Display, Formatter, Write as _};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Interval, Picture};

/// Text made safe for element content and for quoted attributes.
pub(super) fn text(raw: &str) -> Text<'_> {
    Text(raw)
}

/// See [`text`].
pub(super) struct Text<'a>(&'a str);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                c if is_unprintable(c) => f.write_char('\u{fffd}')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Control characters are parse errors in HTML, and the bidirectional overrides could make a line
/// read otherwise than it is.
fn is_unprintable(character: char) -> bool {
    character.is_control() || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON that may stand inside a `<script>` element.
pub(super) fn script_json(value: &serde_json::Value) -> String {
    value
        .to_string()
        .replace('<', "\\u003c")
        .replace(is_unprintable, "\u{fffd}")
}

/// A picture in the page, enlarged; `class` decides how large.
pub(super) fn picture(picture: &Picture, class: &str) -> String {
    if !matches!(picture.media_type.as_str(), "image/png" | "image/jpeg") || picture.data.is_empty()
    {
        return format!(
            "<div class=\"{class} gap\" role=\"img\" aria-label=\"{0}\">{0}</div>",
            text(&picture.alt)
        );
    }
    // Small pictures are shown with their pixels; larger ones look better smoothed.
    let scaling = if (1..=128).contains(&width_px(picture)) {
        " pixels"
    } else {
        ""
    };
    format!(
        "<img class=\"{class}{scaling}\" alt=\"{}\" src=\"data:{};base64,{}\">",
        text(&picture.alt),
        picture.media_type,
        STANDARD.encode(&picture.data)
    )
}

/// The width as told, else as a PNG's header says; 0 when neither is known.
fn width_px(picture: &Picture) -> u32 {
    match picture.data.get(16..20).map(<[u8; 4]>::try_from) {
        Some(Ok(bytes)) if picture.width_px == 0 && picture.data.starts_with(b"\x89PNG") => {
            u32::from_be_bytes(bytes)
        }
        _ => picture.width_px,
    }
}

/// A part that is folded away until it is asked for. `body` is HTML.
pub(super) fn fold(summary: &str, body: &str) -> String {
    format!(
        "<details><summary>{}</summary>\n{body}</details>\n",
        text(summary)
    )
}

/// A table that scrolls by itself on narrow screens. Cells are HTML; the first of a row heads it.
pub(super) fn table(caption: &str, head: &[String], rows: &[Vec<String>]) -> String {
    let head: String = head
        .iter()
        .map(|cell| format!("<th scope=\"col\">{cell}</th>"))
        .collect();
    let mut body = String::new();
    for row in rows {
        body.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let tag = if column == 0 {
                "th scope=\"row\""
            } else {
                "td"
            };
            let _ = write!(body, "<{tag}>{cell}</{}>", &tag[..2]);
        }
        body.push_str("</tr>\n");
    }
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table>\n\
         <caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n",
        caption = text(caption)
    )
}

/// A count with thousands separated: `12,345`.
pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 question`, `2 questions`.
pub(super) fn counted(value: u64, noun: &str) -> String {
    format!(
        "{} {noun}{}",
        count(value),
        if value == 1 { "" } else { "s" }
    )
}

/// A fraction in percent, without decimals: `62 %`.
pub(super) fn percent(fraction: f64) -> String {
    if fraction.is_finite() {
        format!("{:.0}\u{202f}%", fraction * 100.0 + 0.0)
    } else {
        "–".into()
    }
}

/// A difference of fractions in points with its sign: `+12.4`, `−0.5`.
pub(super) fn points(fraction: f64) -> String {
    if !fraction.is_finite() {
        return "–".into();
    }
    let tenths = (fraction * 1000.0).round() / 10.0;
    let sign = if tenths > 0.0 {
        "+"
    } else if tenths < 0.0 {
        "−"
    } else {
        "±"
    };
    format!("{sign}{:.1}", tenths.abs())
}

/// The ends of an interval of differences: `+5.1 to +19.8`.
pub(super) fn point_range(interval: &Interval) -> String {
    format!("{} to {}", points(interval.low), points(interval.high))
}

/// A duration for people: `8.2 s`, `3 min 20 s`, `2 h 05 min`.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".into();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        format!("{} h {:02} min", whole / 3600, whole % 3600 / 60)
    }
}

/// A horizontal position in percent for CSS and SVG, kept inside the drawing.
pub(super) fn position(fraction: f64) -> String {
    let fraction = if fraction.is_finite() {
        fraction.clamp(0.0, 1.0)
    } else {
        0.0
    };
    format!("{:.2}%", fraction * 100.0)
}

/// The name at the beginning of a sentence.
pub(super) fn capitalised(name: &str) -> String {
    let mut characters = name.chars();
    characters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(characters).collect()
    })
}

/// Values in the order of their first appearance.
pub(super) fn distinct<'a>(values: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}
