//! The commands of operators.

mod node;
mod tenant;
mod token;

pub(crate) use node::{NodeArgs, node};
pub(crate) use tenant::{TenantArgs, tenant};
pub(crate) use token::{TokenArgs, token};
