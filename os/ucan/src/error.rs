//! Why bytes are no token, and why a delegation cannot be written down.

use crate::policy::PolicyError;
use crate::{MAX_CAPABILITIES, MAX_TOKEN};

/// Why bytes are not a token that is understood. Nothing that is not understood is passed over: it might have narrowed
/// what the token grants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("it is {0} bytes, at most {MAX_TOKEN} are read")]
    TooLarge(usize),
    #[error("it is neither a JWT nor DAG-CBOR")]
    UnknownFormat,
    #[error("a JWT is three parts with dots between them")]
    JwtParts,
    #[error("its {part} is not base64url in the one way to write it")]
    Base64 { part: &'static str },
    #[error("its {part} is not good JSON: {why}")]
    Json { part: &'static str, why: String },
    #[error("it is signed with `{0}`; only EdDSA is accepted")]
    Algorithm(String),
    #[error("its header says the {field} `{found}`, expected `{expected}`")]
    Header { field: &'static str, found: String, expected: &'static str },
    #[error("its varsig header is not Ed25519 over DAG-CBOR (34 01 ed 01 ed 01 13 71)")]
    Varsig,
    #[error("it is not good DAG-CBOR: {0}")]
    Cbor(String),
    #[error("it is DAG-CBOR, but not in the one way to write it")]
    NotCanonical,
    #[error("it is no envelope of signature and payload (UCAN 1.0, Envelope)")]
    Envelope,
    #[error("it is a `{0}`, expected {1}")]
    Tag(String, &'static str),
    #[error("its field `{field}` {why}")]
    Field { field: String, why: &'static str },
    #[error("`{0}` is no DID")]
    Did(String),
    #[error("`{text}` is no ability: {why}")]
    Ability { text: String, why: &'static str },
    #[error("`{text}` is no resource: {why}")]
    Resource { text: String, why: &'static str },
    #[error("its policy is not understood: {0}")]
    Policy(#[from] PolicyError),
    #[error("it grants nothing")]
    GrantsNothing,
    #[error("it has more than {MAX_CAPABILITIES} capabilities")]
    TooManyCapabilities,
    #[error("it ends before it begins")]
    EndsBeforeItBegins,
    #[error("its signature is not 64 bytes")]
    SignatureLength,
}

impl TokenError {
    pub(crate) fn field(field: &str, why: &'static str) -> Self {
        TokenError::Field { field: field.chars().take(40).collect(), why }
    }
}

/// Why a delegation cannot be written in a format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("UCAN 1.0 has one command in a token, and this has {0} capabilities")]
    Capabilities(usize),
    #[error("UCAN 1.0 commands cover what is beneath them: `{0}` cannot be said alone, `{0}/*` can")]
    Concrete(String),
    #[error("UCAN 1.0 names resources in its policy; the capability itself must be over `*`")]
    Resource,
    #[error("UCAN 1.0 cannot say `any owner` of a part; name the owner, or all of a scheme (`macula:*/*`)")]
    AnyOwner,
    #[error("UCAN 1.0 needs a subject")]
    NoSubject,
    #[error("a JWT has no {0}")]
    NotInJwt(&'static str),
    #[error("what was written would not be read again: {0}")]
    Unreadable(#[from] TokenError),
}
