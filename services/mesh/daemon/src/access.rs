//! Who may open which stream: what the service behind it asks for, in a word.

use anyhow::{Context, Result, bail};
use mesh_proto::{pubsub, rpc};
use os_identity::NodeId;
use os_ucan::{Ability, Resource};
use services_api::control;

/// How a service opens a protocol, procedure or topic to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Whoever has proved which node it is.
    Peer,
    Owner,
    /// The owner, and whoever shows delegations of this ability that come from it.
    Delegated(Ability),
}

/// What has to be delegated to whoever opens a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub ability: Ability,
    pub resource: Resource,
}

impl Access {
    /// `peer`, `owner`, or an ability such as `macula/mesh/call`.
    pub fn parse(word: &str) -> Result<Self> {
        match word {
            "peer" => Ok(Access::Peer),
            "owner" => Ok(Access::Owner),
            _ => {
                let ability = Ability::parse(word)
                    .with_context(|| format!("access `{word}` is not `peer`, `owner` or an ability"))?;
                if !ability.is_concrete() {
                    bail!("access `{word}` names a family of abilities: name one");
                }
                Ok(Access::Delegated(ability))
            }
        }
    }

    /// What a stream asks for; `None` if only the owner may have it, whatever is delegated.
    ///
    /// The owner's calls say in their resource which method they will be: each is an ability beneath the one of its protocol. All else is
    /// a thing beneath the node: `rpc/PROCEDURE`, `topic/TOPIC`, `stream/PROTOCOL/RESOURCE`.
    pub fn asked(&self, me: &NodeId, protocol: &str, resource: &str) -> Result<Option<Asked>> {
        let Access::Delegated(ability) = self else { return Ok(None) };
        if control::protocol::is_control(protocol) {
            if resource.is_empty() {
                return Ok(None);
            }
            let ability = Ability::parse(&format!("{ability}/{}", control::protocol::ability(resource)))?;
            return Ok(Some(Asked { ability, resource: Resource::node(me) }));
        }
        let path = match protocol {
            rpc::PROTOCOL => format!("rpc/{resource}"),
            pubsub::PROTOCOL => format!("topic/{resource}"),
            _ if resource.is_empty() => format!("stream/{protocol}"),
            _ => format!("stream/{protocol}/{resource}"),
        };
        let resource = Resource::parse(&format!("macula:{me}/{path}"))?;
        if !resource.is_concrete() {
            bail!("`{path}` names a family of things");
        }
        Ok(Some(Asked { ability: ability.clone(), resource }))
    }

    /// Refuses a name that no delegation could ever name.
    pub fn check_name(&self, me: &NodeId, protocol: &str, resource: &str) -> Result<()> {
        if control::protocol::is_control(protocol) || (resource.is_empty() && protocol != pubsub::PROTOCOL) {
            return Ok(());
        }
        let asked = self.asked(me, protocol, resource).map(drop);
        asked.context("what is given by delegation has a name made of a-z, 0-9, `-`, `_`, `.`, `~` and `/`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> NodeId {
        os_identity::NodeKey::from_seed(&[1; 32]).node_id()
    }

    fn asked(access: &str, protocol: &str, resource: &str) -> Option<String> {
        let asked = Access::parse(access).unwrap().asked(&me(), protocol, resource).unwrap()?;
        assert!(asked.ability.is_concrete() && asked.resource.is_concrete());
        Some(format!("{} {}", asked.ability, asked.resource).replace(&me().to_string(), "ME"))
    }

    #[test]
    fn a_stream_asks_for_one_thing() {
        for (access, protocol, resource, wanted) in [
            ("peer", "rpc/1", "a/b", None),
            ("owner", "rpc/1", "a/b", None),
            (
                "macula/mesh/call",
                "rpc/1",
                "home/lamp_v1",
                Some("macula/mesh/call macula:ME/rpc/home/lamp_v1"),
            ),
            (
                "macula/mesh/subscribe",
                "pubsub/1",
                "home/t",
                Some("macula/mesh/subscribe macula:ME/topic/home/t"),
            ),
            ("macula/x", "copy/2", "", Some("macula/x macula:ME/stream/copy/2")),
            ("macula/x", "copy/2", "a", Some("macula/x macula:ME/stream/copy/2/a")),
            ("macula/os", "control/1", "reboot", Some("macula/os/reboot macula:ME")),
            ("macula/os", "control/1", "", None),
            ("macula/os", "control/1", "install", Some("macula/os/update macula:ME")),
            ("macula/content", "control-content/1", "get", Some("macula/content/get macula:ME")),
        ] {
            assert_eq!(
                asked(access, protocol, resource).as_deref(),
                wanted,
                "{access} {protocol} {resource}"
            );
        }
    }

    #[test]
    fn what_cannot_be_delegated_is_no_access() {
        for word in ["", "everybody", "macula/*", "*", "Macula/call", "a//b"] {
            // A single word is an ability, too; nobody has it.
            let parsed = Access::parse(word);
            assert!(parsed.is_err() || word == "everybody", "{word}: {parsed:?}");
        }
        let access = Access::parse("macula/mesh/call").unwrap();
        for name in ["Home", "a b", "a/../b", "a/*", "a//b", "*"] {
            assert!(access.check_name(&me(), "rpc/1", name).is_err(), "{name}");
            assert!(access.asked(&me(), "rpc/1", name).is_err(), "{name}");
        }
        assert!(access.check_name(&me(), "rpc/1", "a/b").is_ok());
        assert!(access.check_name(&me(), "rpc/1", "").is_ok(), "for those that nobody else serves");
        assert!(Access::Peer.check_name(&me(), "rpc/1", "Home").is_ok(), "nothing to delegate");
        let os = Access::parse("macula/os").unwrap();
        assert!(os.asked(&me(), "control/1", "a/*").is_ok_and(|a| !a.unwrap().ability.is_concrete()));
    }
}
