//! Whose is an Ingress? By `spec.ingressClassName`, by the legacy annotation, or by the default class
//! (Kubernetes documentation, "Ingress class"). What isn't ours is left alone, without a word.

use super::Settings;
use super::object::Ingress;
use super::resources::Resources;
use crate::model::ObjectName;

pub(super) fn is_ours(ingress: &Ingress, resources: &Resources, settings: &Settings) -> bool {
    // Where the operator selects namespaces, those that are known are the selected ones.
    let namespace = ObjectName::new("", &ingress.name.namespace);
    if settings.select_namespaces && !resources.namespaces.contains(&namespace) {
        return false;
    }
    let ours = |controller: &str| controller == settings.controller;
    // Either may name our class without an IngressClass object, as in a folder of three manifests.
    if let Some(class) = ingress.class.as_ref().or(ingress.legacy_class.as_ref()) {
        let object = resources.classes.get(&ObjectName::new("", class));
        return object.map_or(**class == *settings.class, |class| ours(&class.controller));
    }
    let default = resources.classes.values().any(|class| class.default && ours(&class.controller));
    default || settings.without_class || (resources.classes.is_empty() && settings.without_any_class)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::object::{IngressClass, Object};

    fn ingress(class: Option<&str>, legacy: Option<&str>) -> Ingress {
        Ingress {
            name: ObjectName::new("a", "b"),
            created: None,
            class: class.map(Into::into),
            legacy_class: legacy.map(Into::into),
            annotations: [].into(),
            default_backend: None,
            rules: [].into(),
            tls: [].into(),
        }
    }

    fn resources(classes: &[(&str, &str, bool)]) -> Resources {
        let mut resources = Resources::default();
        for (name, controller, default) in classes {
            let class = IngressClass { controller: (*controller).to_owned(), default: *default };
            resources.apply(Object::IngressClass(ObjectName::new("", name), class));
        }
        resources
    }

    #[test]
    fn a_class_decides_whose_an_ingress_is() {
        let settings = Settings::default();
        let none = resources(&[]);
        let both = resources(&[("edge", "portunus.dev/ingress-controller", false), ("nginx", "k8s.io/nginx", true)]);
        let default = resources(&[("edge", "portunus.dev/ingress-controller", true)]);
        let taken = resources(&[("portunus", "k8s.io/nginx", false)]);
        let table = [
            (ingress(None, None), &none, true),
            (ingress(None, None), &both, false),
            (ingress(None, None), &default, true),
            (ingress(Some("edge"), None), &both, true),
            (ingress(Some("nginx"), None), &both, false),
            (ingress(Some("other"), None), &none, false),
            (ingress(Some("portunus"), None), &none, true),
            (ingress(Some("portunus"), None), &taken, false),
            (ingress(None, Some("edge")), &both, true),
            (ingress(None, Some("nginx")), &default, false),
            (ingress(None, Some("portunus")), &both, true),
            (ingress(Some("nginx"), Some("edge")), &both, false),
        ];
        for (ingress, resources, ours) in table {
            assert_eq!(is_ours(&ingress, resources, &settings), ours, "{ingress:?}");
        }
        let cluster = Settings { without_any_class: false, ..Settings::default() };
        assert!(!is_ours(&ingress(None, None), &none, &cluster));
    }
}
