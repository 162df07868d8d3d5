//! `maculactl ucan`, as clap reads it.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use os_identity::NodeId;
use os_ucan::{Ability, Resource};

pub const EXAMPLES: &str = "\
You own a node and let somebody restart its apps, for a month:
  maculactl ucan issue --to did:key:BOB --can 'macula/app/*' --with 'macula:did:key:NODE/*' > bob.ucan

Bob passes a part of it on, with his own key; his file goes along as proof:
  maculactl ucan issue --to did:key:CAROL --can macula/app/deploy --with macula:did:key:NODE/app/web \\
      --proof bob.ucan --expires 1d > carol.ucan

What a file allows, whether each link of it is good, and until when:
  maculactl ucan inspect carol.ucan

You take Bob's back, and with it all that rests on it:
  maculactl ucan revoke bob.ucan --out bob.revocation
  maculactl ucan inspect carol.ucan --revocation bob.revocation
  maculactl ucan announce bob.revocation --node ADDR      one node of yours; the mesh tells the others

Bob uses it:
  maculactl --node ADDR --ucan bob.ucan status

What can be said:
  --can   macula/os/update          that one verb
          macula/os/*               it and all beneath it; * is every verb
          verbs: macula/os/{update,reboot}, macula/app/deploy, macula/content/get, macula/mesh/{call,publish,subscribe}, ...
  --with  macula:did:key:NODE       the node itself
          macula:did:key:NODE/*     it and all that it has; macula:*/* is every node's, * everything
          macula:REALM/topic/x_v1   something in a realm (its id, 64 hexadecimal digits)

Nobody can give more than they have. A delegation cannot be undone by deleting the file: keep lifetimes short.";

#[derive(Debug, Subcommand)]
pub enum Ucan {
    /// Let a key do something: a signed delegation, with the proofs that it rests on, on stdout
    Issue(Issue),
    /// Say what a delegation allows and whether each of its links is good
    Inspect {
        /// A delegation as `ucan issue` wrote it, or a revocation; `-`: stdin
        file: PathBuf,
        /// A revocation to take into account
        #[arg(long = "revocation", value_name = "FILE")]
        revocations: Vec<PathBuf>,
    },
    /// Hand a revocation to a node of yours, which tells the mesh for as long as it lives
    Announce {
        /// As `ucan revoke` wrote it
        file: PathBuf,
    },
    /// Take a delegation back: a signed statement in a file
    Revoke {
        /// The delegation, as `ucan issue` wrote it; `-`: stdin
        file: PathBuf,
        /// Which of its links, as `ucan inspect` numbers them
        #[arg(long, value_name = "N", default_value_t = 1)]
        link: usize,
        /// Where the statement goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Issue {
    /// Who may, as did:key
    #[arg(long, value_name = "DID")]
    pub to: NodeId,
    /// What they may do; once for each ability
    #[arg(long, value_name = "ABILITY", required = true, value_parser = ability)]
    pub can: Vec<Ability>,
    /// What they may do it with
    #[arg(long, value_name = "RESOURCE", value_parser = resource)]
    pub with: Resource,
    /// For how long, such as 30d, 12h, 15m
    #[arg(long = "expires", value_name = "TIME", default_value = "30d", value_parser = crate::lifetime::parse)]
    pub expires_s: u64,
    /// A delegation to you that this rests on; none when the resource is yours
    #[arg(long = "proof", value_name = "FILE")]
    pub proofs: Vec<PathBuf>,
    /// How it is written. Default: as the proofs are, else jwt
    #[arg(long, value_enum)]
    pub format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// UCAN 0.10, as Macula's SDK has it
    Jwt,
    /// UCAN 1.0. One ability, which covers what is beneath it; one proof
    DagCbor,
}

fn ability(text: &str) -> Result<Ability, String> {
    Ability::parse(text).map_err(|e| e.to_string())
}

fn resource(text: &str) -> Result<Resource, String> {
    Resource::parse(text).map_err(|e| e.to_string())
}
