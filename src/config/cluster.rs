//! Flags about the cluster: what is watched, what is written there, and the admission webhook.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Objects;
use super::process::Logging;
use super::values::{Listen, duration, listen_address};
use crate::model::ObjectName;

/// Where the objects come from without a folder.
#[derive(Debug, Args)]
pub struct Cluster {
    /// Kubeconfig of the cluster [default: the Pod's own ServiceAccount, else $KUBECONFIG, else ~/.kube/config]
    #[arg(long, env = "PORTUNUS_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces to watch, so that rights in these suffice [default: all]
    #[arg(long, env = "PORTUNUS_WATCH_NAMESPACE", value_name = "NS", value_delimiter = ',')]
    pub watch_namespace: Vec<String>,
    /// Serve the Ingresses of namespaces with these labels only, as in `team=a,stage!=test`
    #[arg(long, env = "PORTUNUS_WATCH_NAMESPACE_SELECTOR", value_name = "LABELS", conflicts_with = "watch_namespace")]
    pub watch_namespace_selector: Option<String>,
    /// Start from this file if the API server can't be reached, and keep the last good state there. Holds keys
    #[arg(long, env = "PORTUNUS_SNAPSHOT_FILE", value_name = "FILE")]
    pub snapshot_file: Option<PathBuf>,
}

/// What is written to the cluster, and by which replica.
#[derive(Debug, Args)]
pub struct Publishing {
    /// Service whose addresses are written into the status of our Ingresses
    #[arg(long, env = "PORTUNUS_PUBLISH_SERVICE", value_name = "NS/NAME", conflicts_with = "publish_status_address")]
    pub publish_service: Option<ObjectName>,
    /// Addresses or host names to write there instead
    #[arg(long, env = "PORTUNUS_PUBLISH_STATUS_ADDRESS", value_name = "ADDR", value_delimiter = ',')]
    pub publish_status_address: Vec<String>,
    /// Take the addresses out of the status again when the last replica stops
    #[arg(long, env = "PORTUNUS_UPDATE_STATUS_ON_SHUTDOWN")]
    pub update_status_on_shutdown: bool,
    /// Name of the Lease by which one replica is chosen to write status and Events
    #[arg(long, env = "PORTUNUS_ELECTION_ID", default_value = "portunus-leader", value_name = "NAME")]
    pub election_id: String,
    /// How long a leader that is gone is waited for; it renews three times as often
    #[arg(long, env = "PORTUNUS_LEASE_DURATION", default_value = "15s", value_parser = duration)]
    pub lease_duration: Duration,
    /// Namespace that the process runs in, and its Lease lies in
    #[arg(long, env = "PORTUNUS_POD_NAMESPACE", default_value = "default", value_name = "NS")]
    pub pod_namespace: String,
    /// Name that the process goes by in the Lease and in Events [default: portunus- and its process id]
    #[arg(long, env = "PORTUNUS_POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
}

/// The admission webhook, which tells users what is wrong with an Ingress before it is stored.
#[derive(Debug, Args)]
pub struct Webhook {
    /// Address for the admission webhook, POST /validate over TLS; may be given several times
    #[arg(long, env = "PORTUNUS_WEBHOOK_LISTEN", default_value = "off", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub webhook_listen: Vec<Listen>,
    /// Secret of the webhook's certificate, which the API server verifies by the caBundle that it was given
    #[arg(long, env = "PORTUNUS_WEBHOOK_CERTIFICATE", value_name = "NS/NAME")]
    pub webhook_certificate: Option<ObjectName>,
}

/// The admission webhook by itself.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
pub struct WebhookServer {
    #[command(flatten)]
    pub webhook: Webhook,
    /// Address for /livez, /readyz, /metrics and /debug; likewise
    #[arg(long, env = "PORTUNUS_ADMIN_LISTEN", default_value = "127.0.0.1:10254", value_name = "ADDR:PORT", value_delimiter = ',', value_parser = listen_address)]
    pub admin_listen: Vec<Listen>,

    #[command(flatten, next_help_heading = "Cluster")]
    pub cluster: Cluster,

    #[command(flatten, next_help_heading = "Objects")]
    pub objects: Objects,

    #[command(flatten, next_help_heading = "Process")]
    pub logging: Logging,
}
