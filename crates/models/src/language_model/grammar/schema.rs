//! From a JSON schema (draft 2020-12, the part that models are asked for) to a grammar.
//!
//! Read are `type` (one or several), `properties`, `required`, `items`, `minItems`, `maxItems`,
//! `minLength`, `maxLength`, `minimum` and `maximum` of integers, `enum`, `const`, `anyOf`, and `$ref`
//! inside the document. Annotations are passed over. Every other keyword is refused by name.
//! `additionalProperties` may say anything but a schema: no other property is ever written.

use std::collections::HashMap;

use super::json::{Json, quoted};
use super::number::Range;
use super::program::{Node, NodeId, Program, Property};
use crate::language_model::error::Error;

/// Where the schema gives no bound: characters of a string, items of an array.
const DEFAULT_MAX_CHARACTERS: u32 = 4096;
const DEFAULT_MAX_ITEMS: u32 = 256;
/// Integers without a bound stay where a double is exact.
const EXACT: i64 = (1 << 53) - 1;
/// The largest schema, in bytes and in parts.
const MAX_SCHEMA_BYTES: usize = 1 << 18;
const MAX_NODES: usize = 10_000;
/// Schemas within schemas, references followed.
const MAX_DEPTH: usize = 100;
/// Values of an `enum`, options of an `anyOf`: all of them are followed at once.
const MAX_OPTIONS: usize = 500;

/// Keywords that say nothing about which values are valid.
const ANNOTATIONS: &[&str] = &[
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "title",
];

/// Compiles a schema.
///
/// # Errors
/// [`Error::Schema`], with a pointer to the keyword that is malformed or not supported.
pub(super) fn compile(text: &str) -> Result<Program, Error> {
    let bad = |reason: String| Error::Schema {
        pointer: "#".into(),
        reason,
    };
    if text.len() > MAX_SCHEMA_BYTES {
        return Err(bad(format!("is longer than {MAX_SCHEMA_BYTES} bytes")));
    }
    let root: Json = serde_json::from_str(text).map_err(|e| bad(format!("is not JSON: {e}")))?;
    let mut compiler = Compiler {
        root: &root,
        program: Program::default(),
        references: HashMap::new(),
        depth: 0,
    };
    // The first node is the whole; a schema that refers to itself refers to it.
    compiler.reference("#", "#")?;
    match every_choice_ends(&compiler.program) {
        true => Ok(compiler.program),
        false => Err(bad(
            "a `$ref` leads back to itself without a value between".into()
        )),
    }
}

struct Compiler<'a> {
    root: &'a Json,
    program: Program,
    /// Nodes of what was referred to, by pointer.
    references: HashMap<String, NodeId>,
    depth: usize,
}

impl<'a> Compiler<'a> {
    fn schema(&mut self, schema: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        if self.program.nodes.len() > MAX_NODES || self.depth > MAX_DEPTH {
            let reason = format!("more than {MAX_NODES} parts, or {MAX_DEPTH} within each other");
            return Err(bad(pointer, reason));
        }
        self.depth += 1;
        let node = self.any_schema(schema, pointer)?;
        self.depth -= 1;
        Ok(node)
    }

    fn any_schema(&mut self, schema: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        let Json::Object(members) = schema else {
            return Err(bad(
                pointer,
                "a schema must be an object that says its type",
            ));
        };
        for (keyword, _) in members {
            let alone = ["$ref", "anyOf"].contains(&keyword.as_str());
            let others = || members.iter().map(|(key, _)| key.as_str());
            let mut beside = others().filter(|key| key != keyword && !ANNOTATIONS.contains(key));
            if let Some(other) = beside.next().filter(|_| alone) {
                return Err(bad(
                    pointer,
                    format!("`{other}` beside `{keyword}` is not supported"),
                ));
            }
        }
        if let Some(target) = schema.get("$ref") {
            let Json::Text(target) = target else {
                return Err(bad(pointer, "`$ref` must be a string"));
            };
            return self.reference(target, pointer);
        }
        if let Some(options) = schema.get("anyOf") {
            return self.any_of(options, pointer);
        }
        if let Some(values) = schema.get("enum") {
            let Json::Array(values) = values else {
                return Err(bad(pointer, "`enum` must be an array"));
            };
            return self.constants(schema, values, "enum", pointer);
        }
        if let Some(value) = schema.get("const") {
            return self.constants(schema, std::slice::from_ref(value), "const", pointer);
        }
        self.typed(schema, pointer)
    }

    /// A schema elsewhere in the document, compiled once.
    fn reference(&mut self, target: &str, pointer: &str) -> Result<NodeId, Error> {
        if let Some(&node) = self.references.get(target) {
            return Ok(node);
        }
        let path = target.strip_prefix('#');
        let found = path.and_then(|path| resolve(self.root, path));
        let Some(schema) = found else {
            let reason = format!("`$ref` = \"{target}\" leads nowhere in this document");
            return Err(bad(pointer, reason));
        };
        let node = self.program.add(Node::Choice(Vec::new()));
        self.references.insert(target.to_owned(), node);
        let inner = self.schema(schema, target)?;
        self.program.nodes[node as usize] = Node::Choice(vec![inner]);
        Ok(node)
    }

    fn any_of(&mut self, options: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        let Json::Array(options) = options else {
            return Err(bad(pointer, "`anyOf` must be an array"));
        };
        let mut nodes = Vec::new();
        for (index, option) in options.iter().enumerate() {
            nodes.push(self.schema(option, &format!("{pointer}/anyOf/{index}"))?);
        }
        match nodes.len() {
            1..=MAX_OPTIONS => Ok(self.program.add(Node::Choice(nodes))),
            _ => Err(bad(
                pointer,
                format!("`anyOf` must have 1 to {MAX_OPTIONS} options"),
            )),
        }
    }

    fn constants(
        &mut self,
        schema: &'a Json,
        values: &[Json],
        keyword: &str,
        pointer: &str,
    ) -> Result<NodeId, Error> {
        let types = types(schema, pointer)?;
        refuse_others(schema, &[keyword, "type"], pointer)?;
        let fits = |value: &Json| {
            let name = value.type_name();
            types.is_empty()
                || types.contains(&name)
                || (name == "integer" && types.contains(&"number"))
        };
        if !values.iter().all(fits) {
            return Err(bad(
                pointer,
                format!("`{keyword}` holds a value of another type"),
            ));
        }
        if !(1..=MAX_OPTIONS).contains(&values.len()) {
            return Err(bad(
                pointer,
                format!("`{keyword}` must have 1 to {MAX_OPTIONS} values"),
            ));
        }
        let literal = |value: &Json| {
            let mut text = String::new();
            value.write(&mut text);
            Node::Literal(text.into_bytes().into())
        };
        let nodes = values
            .iter()
            .map(|value| self.program.add(literal(value)))
            .collect();
        Ok(self.program.add(Node::Choice(nodes)))
    }

    fn typed(&mut self, schema: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        let types = types(schema, pointer)?;
        let mut known = vec!["type"];
        let mut nodes = Vec::new();
        for name in &types {
            known.extend(keywords_of(name));
            nodes.push(match *name {
                "object" => self.object(schema, pointer)?,
                "array" => self.array(schema, pointer)?,
                "string" => {
                    let bounds = ("minLength", "maxLength", DEFAULT_MAX_CHARACTERS);
                    let (min, max) = bounded(schema, bounds, pointer)?;
                    self.program.add(Node::Text { min, max })
                }
                "integer" => {
                    let range = integer_range(schema, pointer)?;
                    self.program.add(Node::Integer(range))
                }
                "number" => self.program.add(Node::Number),
                "boolean" => {
                    let words = ["true", "false"].map(|word| self.literal(word));
                    self.program.add(Node::Choice(words.to_vec()))
                }
                "null" => self.literal("null"),
                other => return Err(bad(pointer, format!("`type` = \"{other}\" does not exist"))),
            });
        }
        refuse_others(schema, &known, pointer)?;
        match nodes[..] {
            [] => Err(bad(pointer, "a schema must say its type")),
            [node] => Ok(node),
            _ => Ok(self.program.add(Node::Choice(nodes))),
        }
    }

    fn object(&mut self, schema: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        let required = match schema.get("required") {
            None => Vec::new(),
            Some(names) => strings(names)
                .ok_or_else(|| bad(pointer, "`required` must be an array of strings"))?,
        };
        if let Some(Json::Object(_)) = schema.get("additionalProperties") {
            return Err(bad(
                pointer,
                "`additionalProperties` with a schema is not supported",
            ));
        }
        let members = match schema.get("properties") {
            None => &[][..],
            Some(Json::Object(members)) => members,
            Some(_) => return Err(bad(pointer, "`properties` must be an object")),
        };
        let known = |name: &&&str| members.iter().any(|(key, _)| key == **name);
        if let Some(name) = required.iter().find(|name| !known(name)) {
            return Err(bad(
                pointer,
                format!("`{name}` is required, but no property"),
            ));
        }
        let mut properties = Vec::new();
        for (name, value) in members {
            let at = format!(
                "{pointer}/properties/{}",
                name.replace('~', "~0").replace('/', "~1")
            );
            properties.push(Property {
                key: self.literal(&format!("{}:", quoted(name))),
                value: self.schema(value, &at)?,
                required: required.contains(&name.as_str()),
            });
        }
        Ok(self.program.add(Node::Object(properties)))
    }

    fn array(&mut self, schema: &'a Json, pointer: &str) -> Result<NodeId, Error> {
        let (min, max) = bounded(schema, ("minItems", "maxItems", DEFAULT_MAX_ITEMS), pointer)?;
        let Some(items) = schema.get("items") else {
            return Err(bad(pointer, "an array must say its `items`"));
        };
        let item = self.schema(items, &format!("{pointer}/items"))?;
        Ok(self.program.add(Node::Array { item, min, max }))
    }

    fn literal(&mut self, text: &str) -> NodeId {
        self.program.add(Node::Literal(text.as_bytes().into()))
    }
}

/// Whether every chain of choices comes to something that is no choice.
fn every_choice_ends(program: &Program) -> bool {
    let mut ends = vec![false; program.nodes.len()];
    loop {
        let mut changed = false;
        for (id, node) in program.nodes.iter().enumerate() {
            let now = match node {
                Node::Choice(nodes) => nodes.iter().all(|&node| ends[node as usize]),
                _ => true,
            };
            changed |= now != ends[id];
            ends[id] = now;
        }
        if !changed {
            return ends.into_iter().all(|ends| ends);
        }
    }
}

fn keywords_of(name: &str) -> &'static [&'static str] {
    match name {
        "object" => &["properties", "required", "additionalProperties"],
        "array" => &["items", "minItems", "maxItems"],
        "string" => &["minLength", "maxLength"],
        "integer" => &["minimum", "maximum"],
        _ => &[],
    }
}

fn refuse_others(schema: &Json, known: &[&str], pointer: &str) -> Result<(), Error> {
    let Json::Object(members) = schema else {
        return Ok(());
    };
    let mut keywords = members.iter().map(|(keyword, _)| keyword.as_str());
    let unknown = keywords.find(|k| !known.contains(k) && !ANNOTATIONS.contains(k));
    match unknown {
        Some(keyword) => Err(bad(pointer, format!("`{keyword}` is not supported here"))),
        None => Ok(()),
    }
}

fn types<'a>(schema: &'a Json, pointer: &str) -> Result<Vec<&'a str>, Error> {
    match schema.get("type") {
        None => Ok(Vec::new()),
        Some(Json::Text(name)) => Ok(vec![name]),
        Some(names) => {
            strings(names).ok_or_else(|| bad(pointer, "`type` must be a string or several"))
        }
    }
}

fn strings(value: &Json) -> Option<Vec<&str>> {
    let Json::Array(items) = value else {
        return None;
    };
    fn text(item: &Json) -> Option<&str> {
        match item {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }
    items.iter().map(text).collect()
}

fn bounded(
    schema: &Json,
    (least, most, default): (&str, &str, u32),
    pointer: &str,
) -> Result<(u32, u32), Error> {
    let count = |keyword: &str| match schema.get(keyword) {
        None => Ok(None),
        Some(value) => match integer(value).and_then(|n| u32::try_from(n).ok()) {
            Some(count) => Ok(Some(count)),
            None => Err(bad(pointer, format!("`{keyword}` must be a count"))),
        },
    };
    let min = count(least)?.unwrap_or(0);
    let max = count(most)?.unwrap_or(default.max(min));
    match min <= max {
        true => Ok((min, max)),
        false => Err(bad(pointer, format!("`{least}` is above `{most}`"))),
    }
}

fn integer_range(schema: &Json, pointer: &str) -> Result<Range, Error> {
    let bound = |keyword: &str| match schema.get(keyword) {
        None => Ok(None),
        Some(value) => match integer(value) {
            Some(bound) => Ok(Some(bound)),
            None => Err(bad(pointer, format!("`{keyword}` must be an integer"))),
        },
    };
    let (least, most) = (bound("minimum")?, bound("maximum")?);
    let min = least.unwrap_or((-EXACT).min(most.unwrap_or(EXACT)));
    let max = most.unwrap_or(EXACT.max(min));
    match min <= max {
        true => Ok(Range { min, max }),
        false => Err(bad(pointer, "`minimum` is above `maximum`")),
    }
}

/// An integer, written as 3 or as 3.0.
fn integer(value: &Json) -> Option<i64> {
    let Json::Number(number) = value else {
        return None;
    };
    let whole = |float: &f64| float.fract() == 0.0 && float.abs() <= EXACT as f64;
    let float = || number.as_f64().filter(whole).map(|float| float as i64);
    number.as_i64().or_else(float)
}

/// What a JSON pointer (RFC 6901) leads to.
fn resolve<'a>(root: &'a Json, path: &str) -> Option<&'a Json> {
    let mut at = root;
    for step in path.split('/').skip(1) {
        let step = step.replace("~1", "/").replace("~0", "~");
        at = match at {
            Json::Array(items) => items.get(step.parse::<usize>().ok()?)?,
            _ => at.get(&step)?,
        };
    }
    (path.is_empty() || path.starts_with('/')).then_some(at)
}

fn bad(pointer: &str, reason: impl Into<String>) -> Error {
    Error::Schema {
        pointer: pointer.to_owned(),
        reason: reason.into(),
    }
}
