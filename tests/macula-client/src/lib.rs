//! The unmodified client `macula-rust` 0.3.0 against our station, over real QUIC: see `tests/`.
