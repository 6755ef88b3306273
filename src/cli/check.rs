//! `portunus check DIR`: every problem in a folder of manifests, by file and line, without serving anything.

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::app;
use crate::config::Check;
use crate::file::Folder;
use crate::translate::{Resources, translate};

pub fn run(config: &Check) -> Result<ExitCode> {
    let path = &config.manifests;
    let mut folder = Folder::open(path).with_context(|| format!("the folder {} can't be read", path.display()))?;
    let mut resources = Resources::default();
    folder.scan(&mut resources);
    let translation = translate(&mut resources, &app::settings(&config.objects));
    let mut findings = folder.findings();
    findings.extend(folder.locate(&translation.problems));
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("no problems in {} objects", folder.objects());
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(1))
}
