//! Annotations, with values that are good, almost good, or anything, and the Secrets and `ConfigMap`s that they name:
//! nothing panics, and where a Problem says that an annotation restricts access and its routes are closed, no route of
//! that Ingress leads anywhere.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::{Corpus, fuzz_target};
use portunus::translate::{Kind, Resources, Translator};
use portunus_fuzz::objects::{AnAnnotation, AnIngress, Event, Name, Text, settings};

#[derive(Arbitrary, Debug)]
struct Input {
    settings: u8,
    name: Name,
    annotations: Vec<AnAnnotation>,
    /// Secrets and the like, which annotations may name.
    others: Vec<Event>,
}

fuzz_target!(|input: Input| -> Corpus {
    let known = |index| Text::Known(index);
    let ingress = AnIngress {
        created: None,
        class: None,
        annotations: input.annotations,
        default: Some(known(16)),
        rules: vec![
            (Some(known(1)), vec![(Some(known(9)), 0, known(16)), (Some(known(14)), 2, known(17))]),
            (None, vec![(Some(known(8)), 0, known(16))]),
        ],
        tls: Vec::new(),
    };
    let Some(object) = ingress.object(input.name) else { return Corpus::Reject };
    let mut resources = Resources::default();
    for event in input.others.iter().filter(|event| !matches!(event, Event::Ingress(..))) {
        let _ = event.happen(&mut resources);
    }
    resources.apply(object.into());
    // Without the classes' and the ownership's, which ask whose the Ingress is.
    let mut translator = Translator::new(settings(input.settings & 0b0110_1001));
    translator.update(&mut resources);
    let problems = translator.problems();
    let closed = problems.iter().any(|problem| {
        problem.object.kind == Kind::Ingress
            && problem.field.starts_with("metadata.annotations")
            && problem.fix.contains("so requests get 503")
    });
    if closed {
        for rule in translator.snapshot().hosts.values().flat_map(|host| &host.rules) {
            assert!(rule.backends.is_empty(), "open in spite of {problems:?}: {rule:?}");
        }
    }
    Corpus::Keep
});
