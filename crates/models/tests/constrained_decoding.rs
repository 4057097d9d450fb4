//! Decoding under JSON schemas, from the random weights of `fixtures/make_language_models.py`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use models::language_model::{
    Answer, Constraint, Finish, Generation, GenerationOptions, LanguageModel, Prompt, Sampling,
};
use serde_json::{Value, json};

fn model(name: &str) -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/language_models");
    LanguageModel::load(&folder.join(name)).unwrap()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// Schemas with the parts that dialogues and prompts need.
fn schemas() -> Vec<Value> {
    vec![
        json!({"type": "object", "additionalProperties": false, "required": ["caption", "count"], "properties": {
            "caption": {"type": "string", "minLength": 3, "maxLength": 40},
            "count": {"type": "integer", "minimum": -12, "maximum": 250},
            "sure": {"type": "boolean"}}}),
        json!({"type": "array", "minItems": 2, "maxItems": 4, "items": {"$ref": "#/$defs/turn"}, "$defs": {
            "turn": {"type": "object", "required": ["role", "text"], "properties": {
                "role": {"enum": ["user", "assistant"]}, "text": {"type": "string", "maxLength": 12}}}}}),
        json!({"type": "object", "required": ["kind"], "properties": {
            "kind": {"const": "Zürich ❄ \"雪\"\n"}, "size": {"type": "number"}, "note": {"type": ["string", "null"], "maxLength": 5}}}),
        json!({"anyOf": [{"type": "null"}, {"type": "integer"}, {"type": "array", "maxItems": 3, "items": {"type": "number"}},
            {"type": "object", "required": ["a"], "properties": {"a": {"enum": [1, 1.5, null, true, "x", {"k": [1, "y"]}]}}}]}),
        json!({"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "object", "required": ["name", "children"], "properties": {
            "name": {"type": "string", "minLength": 1, "maxLength": 3},
            "children": {"type": "array", "maxItems": 3, "items": {"$ref": "#/$defs/tree"}}}}}}),
        json!({"type": "object", "properties": {"a": {"type": "integer", "maximum": -5}, "b": {"type": "integer", "minimum": 1_000_000_007},
            "c": {"type": "integer", "minimum": 0, "maximum": 0}, "d/~e": {"type": "string", "minLength": 2, "maxLength": 2}}}),
        json!({"type": "string", "minLength": 30}),
        json!({"type": "integer", "minimum": 3}),
    ]
}

/// An independent reading of the same keywords.
fn valid(root: &Value, schema: &Value, value: &Value) -> bool {
    let each =
        |keyword: &str, check: &dyn Fn(&Value) -> bool| schema.get(keyword).is_none_or(check);
    let count = match value {
        Value::String(s) => s.chars().count() as f64,
        Value::Array(a) => a.len() as f64,
        _ => value.as_f64().unwrap_or(0.0),
    };
    let is = |name: &Value| match text(name) {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => value.is_null(),
    };
    let at_least = |bound: &Value| count >= bound.as_f64().unwrap();
    let at_most = |bound: &Value| count <= bound.as_f64().unwrap();
    let known = |properties: &Value| {
        value.as_object().is_none_or(|members| {
            members
                .iter()
                .all(|(k, v)| properties.get(k).is_some_and(|s| valid(root, s, v)))
        })
    };
    each("type", &|t| {
        t.as_array()
            .map_or_else(|| is(t), |names| names.iter().any(is))
    }) && each("enum", &|values| list(values).contains(value))
        && each("const", &|expected| expected == value)
        && each("anyOf", &|options| {
            list(options).iter().any(|s| valid(root, s, value))
        })
        && each("$ref", &|target| {
            valid(root, root.pointer(&text(target)[1..]).unwrap(), value)
        })
        && (!value.is_string() || each("minLength", &at_least) && each("maxLength", &at_most))
        && (!value.is_array() || each("minItems", &at_least) && each("maxItems", &at_most))
        && (!value.is_number() || each("minimum", &at_least) && each("maximum", &at_most))
        && each("items", &|s| {
            value
                .as_array()
                .is_none_or(|all| all.iter().all(|v| valid(root, s, v)))
        })
        && each("properties", &known)
        && each("required", &|names| {
            !value.is_object() || list(names).iter().all(|n| value.get(text(n)).is_some())
        })
}

/// One text under a schema; every third has just enough tokens, every third some more.
fn decode(model: &LanguageModel, constraint: &Constraint, seed: u64) -> Answer {
    let options = GenerationOptions {
        max_new_tokens: constraint.least_tokens() + [0, 7, 120][seed as usize % 3],
        constraint: Some(constraint.clone()),
        sampling: Sampling {
            temperature: [0.0, 0.7, 1.5, 5.0][seed as usize % 4],
            ..Sampling::default()
        },
        seed,
        ..GenerationOptions::default()
    };
    let prompt = Prompt::Text(format!("Answer number {seed}:"));
    model
        .generate(&prompt, &options, &mut |_| {}, &|| true)
        .unwrap()
}

#[test]
fn a_thousand_constrained_decodes_from_random_weights_fulfil_their_schema() {
    // Products this small are done before a second thread wakes up.
    let one_thread = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let (mut count, mut complete) = (0, 0);
    for name in ["llama", "qwen2"] {
        let model = model(name);
        for schema in schemas() {
            let constraint = model.constraint(&schema.to_string()).unwrap();
            for seed in 0..64 {
                let answer = one_thread.install(|| decode(&model, &constraint, seed));
                let value = serde_json::from_str(&answer.text);
                let value = value.unwrap_or_else(|e| panic!("{e}: {}", answer.text));
                assert!(valid(&schema, &schema, &value), "{schema}\n{}", answer.text);
                count += 1;
                complete += usize::from(answer.finish == Finish::Complete);
            }
        }
    }
    assert!(
        count >= 1000 && complete > 700,
        "{count} decodes, {complete} complete"
    );
}

#[test]
fn a_budget_below_the_shortest_answer_is_refused_before_anything_is_computed() {
    let model = model("qwen2");
    for schema in &schemas()[..3] {
        let constraint = model.constraint(&schema.to_string()).unwrap();
        let options = GenerationOptions {
            max_new_tokens: constraint.least_tokens() - 1,
            constraint: Some(constraint),
            ..GenerationOptions::default()
        };
        let error = Generation::start(&model, &Prompt::Text("x".into()), &options)
            .err()
            .unwrap();
        assert!(error.to_string().contains("tokens at least"), "{error}");
    }
}

#[test]
fn a_schema_that_cannot_be_kept_is_refused_with_the_keyword_and_its_place() {
    let model = model("qwen2");
    let cases = [
        (json!({"type": "string", "pattern": "a+"}), "`pattern`"),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "format": "date"}}}),
            "#/properties/a",
        ),
        (json!({"type": "number", "minimum": 0}), "`minimum`"),
        (json!({"type": "array"}), "`items`"),
        (
            json!({"type": "object", "required": ["b"]}),
            "`b` is required",
        ),
        (json!({"oneOf": [{"type": "null"}]}), "`oneOf`"),
        (json!({"$ref": "other.json"}), "leads nowhere"),
        (json!({"$ref": "#"}), "leads back to itself"),
        (
            json!({"anyOf": [{"type": "null"}, {"$ref": "#"}]}),
            "leads back to itself",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}}),
            "no finite text",
        ),
        (
            json!({"type": "string", "minLength": 3, "maxLength": 2}),
            "`minLength`",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "null"}}),
            "`additionalProperties`",
        ),
        (json!({"enum": ["a"], "type": "integer"}), "another type"),
        (json!({"type": "tuple"}), "tuple"),
        (json!(true), "an object that says its type"),
        (json!({}), "say its type"),
    ];
    for (schema, word) in cases {
        let error = model
            .constraint(&schema.to_string())
            .unwrap_err()
            .to_string();
        assert!(error.contains(word), "{schema}: {error}");
    }
    let deep = r#"{"type":"array","items":"#.repeat(110) + r#"{"type":"null"}"# + &"}".repeat(110);
    assert!(
        model
            .constraint(&deep)
            .unwrap_err()
            .to_string()
            .contains("within each other")
    );
    assert!(
        model
            .constraint("{")
            .unwrap_err()
            .to_string()
            .contains("is not JSON")
    );
}
