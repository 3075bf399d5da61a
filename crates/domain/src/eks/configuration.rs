//! Configuration values of add-ons, as they are given: JSON or YAML, held against a JSON schema.
//!
//! Invariant: what is refused is refused in EKS's words, however long it was; what is read is no longer than it may be.

use serde_json::{Map, Value};

/// How much of it is read. Every workload's configuration is a fraction of that.
pub const LONGEST_CONFIGURATION: usize = 64 * 1024;
/// How many of a schema's complaints are told.
const MOST_COMPLAINTS: usize = 5;
const REFUSED: &str = "ConfigurationValue provided in request is not supported";

/// What an add-on's configuration may be.
#[derive(Debug)]
pub struct ConfigurationSchema(jsonschema::Validator);

impl ConfigurationSchema {
    /// Of a schema of draft 6.
    pub fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::draft6::new(schema).map(Self).map_err(|error| error.to_string())
    }

    /// What was given, if the schema lets it, and `check` what a schema cannot say.
    pub fn read(
        &self,
        given: &str,
        check: impl FnOnce(&Map<String, Value>) -> Result<(), String>,
    ) -> Result<Map<String, Value>, String> {
        if given.trim().is_empty() {
            return Ok(Map::new());
        }
        if given.len() > LONGEST_CONFIGURATION {
            return Err(too_long());
        }
        let read: Result<Value, _> = serde_saphyr::from_str(given);
        let value =
            read.map_err(|error| format!("{REFUSED}: neither JSON nor YAML: {}", shortened(error)))?;
        // YAML's aliases make much of little.
        if value.to_string().len() > LONGEST_CONFIGURATION {
            return Err(too_long());
        }
        let complaints: Vec<String> =
            self.0.iter_errors(&value).take(MOST_COMPLAINTS).map(complaint).collect();
        match value {
            Value::Object(values) if complaints.is_empty() => {
                check(&values).map_err(|why| format!("{REFUSED}: {why}"))?;
                Ok(values)
            }
            _ => Err(format!(
                "{REFUSED}: Json schema validation failed with error: [{}]",
                complaints.join(", ")
            )),
        }
    }
}

fn too_long() -> String {
    format!("{REFUSED}: longer than {LONGEST_CONFIGURATION} characters")
}

fn complaint(error: jsonschema::ValidationError<'_>) -> String {
    let path = error.instance_path().to_string().replace('/', ".");
    format!("${}: {}", shortened(path), shortened(&error))
}

/// A complaint may repeat all that was given.
fn shortened(complaint: impl std::fmt::Display) -> String {
    const SHOWN: usize = 300;
    complaint.to_string().chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_refusal_is_short_whatever_was_given() {
        let schema = json!({"type": "object", "additionalProperties": {"type": "integer"}});
        let schema = ConfigurationSchema::new(&schema).expect("is one");
        let refused = |given: String| schema.read(&given, |_| Ok(())).expect_err("refused");
        for given in [
            json!({"k".repeat(30_000): "v".repeat(30_000)}).to_string(),
            format!("a: [{}", "y".repeat(30_000)),
            "just text".to_owned(),
            "-".repeat(30_000),
        ] {
            let told = refused(given);
            assert!(told.starts_with(REFUSED) && told.len() < 1000, "{told}");
        }
        assert!(refused("a: 1\nb: [".to_owned()).contains("neither JSON nor YAML"));
        assert!(refused("x".repeat(LONGEST_CONFIGURATION + 1)).contains("longer"));
    }

    #[test]
    fn what_a_schema_cannot_say_is_checked_behind_it() {
        let schema = ConfigurationSchema::new(&json!({"type": "object"})).expect("is one");
        let least = |values: &Map<String, Value>| match values.get("a") {
            Some(_) => Ok(()),
            None => Err("no a".to_owned()),
        };
        assert_eq!(schema.read("a: 1", least), Ok(Map::from_iter([("a".to_owned(), json!(1))])));
        assert_eq!(schema.read("b: 1", least), Err(format!("{REFUSED}: no a")));
        assert_eq!(schema.read(" \n", least), Ok(Map::new()));
    }
}
