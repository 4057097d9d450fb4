//! The schemas are documents: these tests hold them to the rules of STYLE.md.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends at its first surprise"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use prost_reflect::{DescriptorPool, EnumDescriptor, MessageDescriptor};

#[test]
fn a_package_is_named_after_its_folder() {
    for (path, text) in schemas() {
        let folder = path.parent().unwrap().to_str().unwrap().replace('/', ".");
        let package = statement(&text, "package ")
            .unwrap_or_else(|| panic!("{} has no package", path.display()));
        assert_eq!(package, folder, "{}", path.display());
    }
}

#[test]
fn every_call_message_field_and_enum_value_has_a_comment() {
    let mut bare = Vec::new();
    for (path, text) in schemas() {
        let mut previous = "";
        let mut inside = 0_i32;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if declares(line, inside) && !previous.starts_with("//") {
                bare.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
            inside += braces(line);
            previous = line;
        }
    }
    assert!(bare.is_empty(), "without a comment:\n{}", bare.join("\n"));
}

#[test]
fn the_zero_of_every_enum_is_unspecified_and_values_carry_its_name() {
    for descriptor in enums() {
        let prefix = upper_snake(descriptor.name());
        let zero = descriptor.get_value(0).expect("an enum has a zero");
        assert_eq!(zero.name(), format!("{prefix}_UNSPECIFIED"));
        for value in descriptor.values() {
            assert!(
                value.name().starts_with(&prefix),
                "{} in {}",
                value.name(),
                descriptor.full_name()
            );
        }
    }
}

#[test]
fn requests_and_responses_are_named_after_their_call_and_used_once() {
    let pool = pool();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for service in pool.services() {
        assert!(
            service.name().ends_with("Service"),
            "{}",
            service.full_name()
        );
        for method in service.methods() {
            assert_eq!(method.input().name(), format!("{}Request", method.name()));
            assert_eq!(method.output().name(), format!("{}Response", method.name()));
            *uses
                .entry(method.input().full_name().to_owned())
                .or_default() += 1;
            *uses
                .entry(method.output().full_name().to_owned())
                .or_default() += 1;
        }
    }
    let shared: Vec<&String> = uses
        .iter()
        .filter(|(_, count)| **count > 1)
        .map(|(name, _)| name)
        .collect();
    assert!(shared.is_empty(), "{shared:?}");
    assert!(
        uses.len() >= 2 * 25,
        "only {} messages: are all services here?",
        uses.len()
    );
}

#[test]
fn counts_are_unsigned_and_lists_are_paged() {
    for message in messages() {
        for field in message.fields() {
            if field.name().ends_with("_count") || field.name().ends_with("_px") {
                let kind = format!("{:?}", field.kind()).to_lowercase();
                assert!(kind.starts_with("uint"), "{} is {kind}", field.full_name());
            }
        }
        let name = message.name();
        if name.starts_with("List") && name.ends_with("Request") {
            assert!(
                message.get_field_by_name("page_size").is_some(),
                "{}",
                message.full_name()
            );
            assert!(
                message.get_field_by_name("page_token").is_some(),
                "{}",
                message.full_name()
            );
        }
        if name.starts_with("List") && name.ends_with("Response") {
            assert!(
                message.get_field_by_name("next_page_token").is_some(),
                "{}",
                message.full_name()
            );
        }
    }
}

#[test]
fn every_service_says_what_it_can_do() {
    for name in [
        "promptgen.v1.Promptgen",
        "diffusion.v1.Diffusion",
        "dialogue.v1.Dialogue",
        "trainer.v1.Trainer",
        "eval.v1.Eval",
    ] {
        let service = pool()
            .get_service_by_name(&format!("diptych.{name}Service"))
            .unwrap_or_else(|| panic!("{name}"));
        assert!(
            service
                .methods()
                .any(|method| method.name() == "GetCapabilities"),
            "{name}"
        );
    }
}

fn pool() -> DescriptorPool {
    DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).expect("the descriptor set decodes")
}

fn messages() -> Vec<MessageDescriptor> {
    pool()
        .all_messages()
        .filter(|message| message.full_name().starts_with("diptych."))
        .collect()
}

fn enums() -> Vec<EnumDescriptor> {
    pool()
        .all_enums()
        .filter(|descriptor| descriptor.full_name().starts_with("diptych."))
        .collect()
}

/// Every schema with its path from the root of the schemas.
fn schemas() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let mut folders = vec![root.join("diptych")];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == "proto")
            {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(&root).unwrap().to_path_buf(), text));
            }
        }
    }
    assert!(found.len() >= 15, "only {} schemas found", found.len());
    found
}

fn statement<'a>(text: &'a str, keyword: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(keyword))?;
    line.strip_suffix(';')
}

/// Whether a line declares something that wants a comment: a service, message or enum, a oneof
/// or a call, or (inside one) a field or a value, which is what has a number.
fn declares(line: &str, depth: i32) -> bool {
    let keyword = ["service ", "message ", "enum ", "oneof ", "rpc "]
        .iter()
        .any(|word| line.starts_with(word));
    let numbered =
        depth > 0 && line.contains(" = ") && line.ends_with(';') && !line.starts_with("option ");
    keyword || (numbered && !line.starts_with("//"))
}

fn braces(line: &str) -> i32 {
    let count = |brace| i32::try_from(line.matches(brace).count()).unwrap();
    if line.starts_with("//") {
        0
    } else {
        count('{') - count('}')
    }
}

fn upper_snake(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.chars().enumerate() {
        if index > 0 && letter.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(letter.to_ascii_uppercase());
    }
    text
}
