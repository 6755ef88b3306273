//! `portunus webhook`: the admission webhook by itself, so that it can be scaled and upgraded apart from the traffic.

use anyhow::Result;
use tokio::task::LocalSet;

use crate::admin;
use crate::app;
use crate::config::WebhookServer;
use crate::control::Control;
use crate::drain::{Drain, Phase};
use crate::ending::Signals;
use crate::metrics::Metrics;
use crate::sockets::Sockets;
use crate::upstream::SessionKey;

/// Runs until a signal ends it.
pub fn run(config: &WebhookServer) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(config))
}

async fn serve(config: &WebhookServer) -> Result<()> {
    let WebhookServer { webhook, admin_listen, cluster, objects, logging: _ } = config;
    let (provider, _, settings) = app::cluster(cluster, objects, webhook).await?;
    let sockets = Sockets::default().bind_control(admin_listen, webhook, false)?;
    anyhow::ensure!(!sockets.webhook.is_empty(), "nothing to serve; write --webhook-listen ADDR:PORT");
    let (metrics, drain) = (Metrics::new(), Drain::new());
    // Nobody is sent anywhere, so that no cookie is ever made.
    let key = SessionKey::default();
    let mut control = Control::new(settings, provider, None, key, metrics.clone());
    let state = app::admin_state(&control, metrics, drain.clone());
    for listener in sockets.admin {
        tokio::task::spawn_local(admin::serve(listener, state.clone()));
    }
    app::serve_webhook(webhook, sockets.webhook, &control);
    let mut signals = Signals::new()?;
    let following = async {
        control.begin().await;
        state.borrow_mut().ready = true;
        match control.run().await {}
    };
    tokio::select! {
        () = following => {}
        () = signals.any() => drain.advance(Phase::Stopping),
    }
    control.stop();
    Ok(())
}
