//! The OpenAPI document, made from the table of operations and the schemas of their types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::operation::{Access, Answer, Content, Holds, Operation, Parameter, Place};
use super::operations::{OPERATIONS, TAGS};
use super::types::ProblemBody;
use crate::http::problem::ProblemKind;

/// The document as it is served and printed.
pub(crate) fn text() -> String {
    format!("{:#}\n", document())
}

/// The document.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut schemas = settings.into_generator();
    let problem = ProblemBody::json_schema(&mut schemas);
    let mut paths: Map<String, Value> = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Value::Object(path) = path {
            path.insert(operation.method.to_ascii_lowercase(), describe(operation, &mut schemas));
        }
    }
    let mut schemas = schemas.take_definitions(true);
    schemas.insert("Problem".to_owned(), problem.into());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "cloudsync hub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What clients and operators ask of the hub.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": TAGS.iter().map(|(name, says)| json!({ "name": name, "description": says })).collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "operator": { "type": "http", "scheme": "bearer", "description": "One of the hub's `admin_keys`." },
                "monitoring": { "type": "http", "scheme": "bearer", "description": "The hub's `monitoring_key`." },
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key of the database, or a token that it takes.",
                },
            },
        },
    })
}

fn describe(operation: &Operation, schemas: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = operation.names().map(in_path).collect();
    parameters.extend(operation.parameters.iter().map(describe_parameter));
    let mut answers: Map<String, Value> = Map::new();
    for answer in operation.answers {
        answers.insert(answer.status.to_string(), describe_answer(answer, schemas));
    }
    for problem in problems(operation) {
        let place = answers.entry(problem.status().as_u16().to_string()).or_insert_with(|| {
            let schema = json!({ "$ref": "#/components/schemas/Problem" });
            json!({ "description": "", "content": { "application/problem+json": { "schema": schema } } })
        });
        let said = place["description"].as_str().unwrap_or_default();
        let more = format!("{} (`{}`)", problem.title(), problem.slug());
        place["description"] = if said.is_empty() { more.into() } else { format!("{said}; {more}").into() };
    }
    let mut described = json!({
        "operationId": operation.id,
        "summary": operation.title,
        "description": operation.says,
        "tags": [operation.tag],
        "parameters": parameters,
        "responses": answers,
        "security": match operation.access {
            Access::Operator => json!([{ "operator": [] }]),
            Access::Key => json!([{ "key": [] }]),
            Access::Monitoring => json!([{}, { "monitoring": [] }]),
            Access::Anybody => json!([]),
        },
    });
    if let Some(body) = operation.body {
        described["requestBody"] = json!({ "required": true, "content": content(body, schemas) });
    }
    described
}

/// The problems of an operation, with those that follow from its description.
pub(super) fn problems(operation: &Operation) -> Vec<ProblemKind> {
    let mut problems = operation.problems.to_vec();
    if !matches!(operation.access, Access::Anybody | Access::Monitoring) {
        problems.extend([ProblemKind::Unauthorized, ProblemKind::TooManyFailures]);
    }
    if operation.access == Access::Monitoring {
        problems.push(ProblemKind::Unauthorized);
    }
    if operation.access == Access::Key {
        problems.extend([ProblemKind::TokenExpired, ProblemKind::Forbidden, ProblemKind::TooManyRequests]);
    }
    if operation.path.contains("{database}") {
        problems.push(ProblemKind::UnknownDatabase);
    }
    if operation.handler.is_some() || operation.body.is_some() {
        problems.push(ProblemKind::BadRequest);
    }
    if operation.body.is_some() {
        problems.extend([ProblemKind::TooLarge, ProblemKind::TooSlow]);
    }
    problems.extend([ProblemKind::Internal, ProblemKind::Unavailable]);
    problems.sort_by_key(|problem| (problem.status().as_u16(), problem.slug()));
    problems.dedup();
    problems
}

fn in_path(name: &'static str) -> Value {
    let schema = if name == "database" {
        json!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9_-]{0,62}$" })
    } else {
        json!({ "type": "string", "minLength": 1 })
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

fn describe_parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.holds {
        Holds::Number(min, max) => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Holds::Hex(digits) => json!({ "type": "string", "pattern": format!("^[0-9a-f]{{{digits}}}$") }),
        Holds::Text(pattern) => json!({ "type": "string", "pattern": pattern }),
        Holds::Any(max) => json!({ "type": "string", "maxLength": max }),
        Holds::Free => json!({ "type": "string" }),
    };
    json!({
        "name": parameter.name,
        "in": match parameter.place { Place::Query => "query", Place::Header => "header" },
        "required": parameter.is_required,
        "description": parameter.says,
        "schema": schema,
    })
}

fn describe_answer(answer: &Answer, schemas: &mut SchemaGenerator) -> Value {
    let mut described = json!({ "description": answer.says });
    let content = content(answer.content, schemas);
    if !content.is_null() {
        described["content"] = content;
    }
    if !answer.headers.is_empty() {
        let header = |says: &str| json!({ "description": says, "schema": { "type": "string" } });
        let headers = answer.headers.iter().map(|(name, says)| ((*name).to_owned(), header(says)));
        described["headers"] = Value::Object(headers.collect());
    }
    described
}

fn content(content: Content, schemas: &mut SchemaGenerator) -> Value {
    match content {
        Content::Nothing => Value::Null,
        Content::Json(schema) => json!({ "application/json": { "schema": schema(schemas) } }),
        Content::Frames => {
            json!({ "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } })
        }
        Content::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
    }
}
