//! What an ERROR says, as a number and a word.

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// A code of ERROR, and of HELLO's refusal.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum ErrorCode {
            $($(#[$doc])* $name = $number,)*
        }

        impl ErrorCode {
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name),*];

            pub fn name(self) -> &'static str {
                match self {
                    $(ErrorCode::$name => $word,)*
                }
            }
        }
    };
}

codes! {
    Ok = 0x00, "ok";
    /// Nobody serves this procedure here.
    UnknownNextPeer = 0x01, "unknown_next_peer";
    /// Whoever served it went away or did not answer in time.
    TemporaryRelayFailure = 0x02, "temporary_relay_failure";
    RelayDisabled = 0x03, "relay_disabled";
    NodeNotFoundAtTargetRelay = 0x04, "node_not_found_at_target_relay";
    TargetRealmRefused = 0x05, "target_realm_refused";
    LoopDetected = 0x06, "loop_detected";
    /// The deadline had passed when the call came.
    ExpiryTooSoon = 0x07, "expiry_too_soon";
    /// Too much is waiting already.
    UpstreamCongestion = 0x08, "upstream_congestion";
    InvalidPathHeader = 0x09, "invalid_path_header";
    CryptoPuzzleInvalid = 0x0a, "crypto_puzzle_invalid";
    RealmNotAuthoritativeHere = 0x0b, "realm_not_authoritative_here";
    Tombstoned = 0x0c, "tombstoned";
    PayloadTooLarge = 0x0d, "payload_too_large";
    SignatureInvalid = 0x0e, "signature_invalid";
    /// The procedure itself says no; why is in `detail`.
    UnknownError = 0x0f, "unknown_error";
    Unauthorized = 0x10, "unauthorized";
}

impl ErrorCode {
    pub fn of(code: u8) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| *c as u8 == code)
    }
}
