//! Policies, from JSON or DAG-CBOR, looked at with themselves as arguments.
#![no_main]

use libfuzzer_sys::fuzz_target;
use os_ucan::ipld::{from_dag_cbor, from_json};
use os_ucan::policy::Policy;

fuzz_target!(|bytes: &[u8]| {
    let value = from_json(bytes).ok().or_else(|| from_dag_cbor(bytes).ok());
    if let Some(policy) = value.and_then(|value| Policy::parse(&value).ok()) {
        let written = policy.to_ipld();
        assert_eq!(Policy::parse(&written), Ok(policy.clone()));
        policy.allows(&written);
    }
});
