//! What can go wrong for an app.

use mesh_proto::rpc::CallError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The node does not let this app do that; the text says what would.
    #[error("this node does not let the app do that: {0}")]
    Refused(String),
    /// The far end answered with an error, or there is none.
    #[error("{} (code {})", .0.text, .0.code.0)]
    Call(#[from] CallError),
    #[error("no node here, or none that knows this app: {0}")]
    NoNode(String),
    /// The content could not be stored, or not all of it could be had.
    #[error("{0}")]
    Content(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The node's mesh could not do it now.
    #[error("{0}")]
    Mesh(String),
}

impl Error {
    pub(crate) fn other(e: impl std::fmt::Display) -> Self {
        Self::Mesh(e.to_string())
    }
}

impl From<zbus::Error> for Error {
    fn from(e: zbus::Error) -> Self {
        match e {
            zbus::Error::FDO(e) => match *e {
                zbus::fdo::Error::AccessDenied(why) => Self::Refused(why),
                other => Self::Mesh(said(&other.to_string())),
            },
            zbus::Error::MethodError(_, Some(text), _) => Self::Mesh(text),
            other => Self::Mesh(other.to_string()),
        }
    }
}

/// Without the name that D-Bus has for the kind of error.
fn said(text: &str) -> String {
    let rest = text.strip_prefix("org.freedesktop.DBus.Error.").and_then(|rest| rest.split_once(": "));
    rest.map_or(text, |(_, said)| said).to_owned()
}
