//! Objects out of a document: the kinds that are read, `List` taken apart, everything else left alone.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::model::ObjectName;
use crate::translate::{Kind, Object, ObjectRef, Problem};

/// The label that ties a slice to its Service, as a JSON pointer.
const SERVICE_LABEL: &str = "/metadata/labels/kubernetes.io~1service-name";

/// One object of a document, or what is wrong with it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where in the document: empty, or `items[3]`.
    pub path: String,
    pub reference: ObjectRef,
    pub object: Result<Object, Problem>,
}

/// The objects of a document. `now` is in seconds since the epoch.
pub fn find(document: &Value, now: i64) -> Vec<Found> {
    let mut found = Vec::new();
    collect(document, String::new(), now, &mut found);
    found
}

fn collect(value: &Value, path: String, now: i64, found: &mut Vec<Found>) {
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default();
    if let Some(items) = value.get("items").and_then(Value::as_array)
        && text("kind").ends_with("List")
    {
        for (index, item) in items.iter().enumerate() {
            collect(item, format!("{path}items[{index}]."), now, found);
        }
        return;
    }
    let Some(kind) = kind(text("kind")) else { return };
    let metadata = |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
    let namespace = if matches!(kind, Kind::IngressClass | Kind::Namespace) {
        ""
    } else {
        metadata("namespace").filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    };
    let reference = ObjectRef { kind, name: ObjectName::new(namespace, metadata("name").unwrap_or_default()) };
    let problem = |field: &str, what: String, fix: &str| Err(Problem::new(reference.clone(), field, what, fix));
    let version = text("apiVersion");
    if !is_of_group(kind, version) {
        return;
    }
    let object = if version != api_version(kind) {
        problem("apiVersion", format!("`{version}` is not read"), &format!("write {}", api_version(kind)))
    } else if reference.name.name.is_empty() {
        problem("metadata.name", "the object has no name".to_owned(), "give it one")
    } else if kind == Kind::EndpointSlice && value.pointer(SERVICE_LABEL).is_none() {
        let what = "no label names the Service that the endpoints belong to".to_owned();
        problem("metadata.labels", what, "add kubernetes.io/service-name")
    } else {
        match parse(kind, value, now) {
            Ok(object) => Ok(object),
            Err(error) => {
                problem("spec", format!("the object is not of its kind's form: {error}"), "correct the field's type")
            }
        }
    };
    found.push(Found { path, reference, object });
}

fn kind(text: &str) -> Option<Kind> {
    match text {
        "Ingress" => Some(Kind::Ingress),
        "IngressClass" => Some(Kind::IngressClass),
        "Service" => Some(Kind::Service),
        "EndpointSlice" => Some(Kind::EndpointSlice),
        "Secret" => Some(Kind::Secret),
        "ConfigMap" => Some(Kind::ConfigMap),
        _ => None,
    }
}

fn api_version(kind: Kind) -> &'static str {
    match kind {
        Kind::Ingress | Kind::IngressClass => "networking.k8s.io/v1",
        Kind::Service | Kind::Secret | Kind::ConfigMap | Kind::Namespace => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
    }
}

/// Whether it is an object of ours, be it of another version; others have kinds of the same name.
fn is_of_group(kind: Kind, version: &str) -> bool {
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match kind {
        Kind::Ingress | Kind::IngressClass => matches!(group, "networking.k8s.io" | "extensions" | ""),
        Kind::Service | Kind::Secret | Kind::ConfigMap | Kind::Namespace => group.is_empty(),
        Kind::EndpointSlice => matches!(group, "discovery.k8s.io" | ""),
    }
}

fn parse(kind: Kind, value: &Value, now: i64) -> Result<Object, serde_json::Error> {
    fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, serde_json::Error> {
        serde_json::from_value(value.clone())
    }
    Ok(match kind {
        Kind::Ingress => typed::<Ingress>(value)?.into(),
        Kind::IngressClass => typed::<IngressClass>(value)?.into(),
        Kind::Service => typed::<Service>(value)?.into(),
        Kind::EndpointSlice => typed::<EndpointSlice>(value)?.into(),
        Kind::Secret => Object::from_secret(typed::<Secret>(value)?, now),
        Kind::ConfigMap => typed::<ConfigMap>(value)?.into(),
        Kind::Namespace => typed::<Namespace>(value)?.into(),
    })
}
