//! Translation is total: whatever objects come, change and go, nothing panics; step by step it comes to what it comes to
//! from nothing; a look at the same objects changes nothing; and a table can be made of the outcome and asked.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use portunus::metrics::Metrics;
use portunus::model::{HostName, Outliers, normalize};
use portunus::table::Publisher;
use portunus::translate::{Resources, Translator, review};
use portunus::upstream::SessionKey;
use portunus_fuzz::objects::{AnIngress, Event, Name, Text, settings};

#[derive(Arbitrary, Debug)]
struct Input {
    settings: u8,
    steps: Vec<Vec<Event>>,
    candidate: Option<(Name, AnIngress)>,
    asked: Vec<(Text, Text)>,
}

fuzz_target!(|input: Input| {
    let settings = settings(input.settings);
    let mut resources = Resources::default();
    let mut translator = Translator::new(settings.clone());
    let mut publisher = Publisher::new(Metrics::new(), SessionKey::default(), Outliers::default());
    for step in &input.steps {
        for event in step {
            let _ = event.happen(&mut resources);
        }
        let changed = translator.update(&mut resources);
        publisher.publish(translator.snapshot(), &changed);
    }
    if let Some((name, ingress)) = &input.candidate
        && let Some(object) = ingress.object(*name)
    {
        let _ = review(&translator, &resources, object);
    }
    resources.mark_all();
    let changed = translator.update(&mut resources);
    assert!(changed.is_empty(), "nothing has changed: {changed:?}");
    resources.mark_all();
    let mut anew = Translator::new(settings);
    anew.update(&mut resources);
    assert_eq!(translator.snapshot(), anew.snapshot());
    assert_eq!(translator.problems(), anew.problems());
    let table = publisher.current.load_full();
    for (host, path) in &input.asked {
        if let (Some(host), Ok(path)) = (HostName::parse(host.get()), normalize(path.get())) {
            let _ = table.find(host.as_str(), &path.matched);
        }
    }
});
