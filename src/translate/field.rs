//! Fields of an Ingress that something was read from. They are kept as the numbers in them, as there are tens of
//! thousands, and become text when somebody is told of them.

use std::fmt;

use super::annotations::PREFIX;

/// Written as `kubectl explain` writes it, with indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Rule(u32),
    /// Of a rule, one of its paths.
    Path(u32, u32),
    DefaultBackend,
    /// A TLS block.
    Tls(u32),
    /// The annotation `default-backend`.
    ErrorBackend,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(rule) => write!(f, "spec.rules[{rule}]"),
            Self::Path(rule, path) => write!(f, "spec.rules[{rule}].http.paths[{path}]"),
            Self::DefaultBackend => f.write_str("spec.defaultBackend"),
            Self::Tls(block) => write!(f, "spec.tls[{block}]"),
            Self::ErrorBackend => write!(f, "metadata.annotations[{PREFIX}default-backend]"),
        }
    }
}

impl Field {
    /// The field below it that names a backend.
    pub(super) fn backend(self) -> String {
        match self {
            Self::Rule(_) | Self::Path(..) => format!("{self}.backend"),
            Self::DefaultBackend | Self::Tls(_) | Self::ErrorBackend => self.to_string(),
        }
    }

    /// The field below it that names a Secret.
    pub(super) fn secret(self) -> String {
        format!("{self}.secretName")
    }
}
