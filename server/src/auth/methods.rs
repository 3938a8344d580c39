//! Which scope each method needs: the whole table.

use super::Scope;

/// What a method asks of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing: no token is looked at.
    Public,
    /// A valid token with this scope.
    Scope(Scope),
    /// A valid token. Also of methods that don't exist, so that strangers learn nothing.
    Token,
}

const TABLE: &[(&str, Access)] = &[
    ("/bulkhead.v1.JobService/CreateJob", Access::Scope(Scope::JobsWrite)),
    ("/bulkhead.v1.JobService/GetJob", Access::Scope(Scope::JobsRead)),
    ("/bulkhead.v1.JobService/ListJobs", Access::Scope(Scope::JobsRead)),
    ("/bulkhead.v1.JobService/CancelJob", Access::Scope(Scope::JobsWrite)),
    ("/bulkhead.v1.JobService/DeleteJob", Access::Scope(Scope::JobsWrite)),
    ("/bulkhead.v1.JobService/WaitJob", Access::Scope(Scope::JobsRead)),
    ("/bulkhead.v1.JobService/WatchJob", Access::Scope(Scope::JobsRead)),
    ("/bulkhead.v1.BlobService/UploadBlob", Access::Scope(Scope::BlobsWrite)),
    ("/bulkhead.v1.BlobService/DownloadBlob", Access::Scope(Scope::BlobsRead)),
    ("/bulkhead.v1.ImageService/ImportImage", Access::Scope(Scope::ImagesWrite)),
    ("/bulkhead.v1.ImageService/GetImage", Access::Scope(Scope::ImagesRead)),
    ("/bulkhead.v1.ImageService/ListImages", Access::Scope(Scope::ImagesRead)),
    ("/bulkhead.v1.ImageService/DeleteImage", Access::Scope(Scope::ImagesWrite)),
    ("/bulkhead.v1.TenantService/CreateTenant", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.TenantService/GetTenant", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.TenantService/ListTenants", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.NodeService/ListNodes", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.NodeService/DrainNode", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.NodeService/UndrainNode", Access::Scope(Scope::Operator)),
    ("/bulkhead.v1.VersionService/Get", Access::Public),
];

/// Whole services that need no token.
const PUBLIC_SERVICES: [&str; 3] = [
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1.ServerReflection/",
    "/grpc.reflection.v1alpha.ServerReflection/",
];

/// What the method at this path (`/package.Service/Method`) needs.
pub fn access(path: &str) -> Access {
    if PUBLIC_SERVICES.iter().any(|service| path.starts_with(service)) {
        return Access::Public;
    }
    TABLE.iter().find(|(method, _)| *method == path).map_or(Access::Token, |(_, access)| *access)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn every_method_of_the_api_is_in_the_table_and_no_other() {
        let set =
            prost_types::FileDescriptorSet::decode(bulkhead_proto::FILE_DESCRIPTOR_SET).expect("descriptors");
        let mut methods: Vec<String> = Vec::new();
        for file in &set.file {
            for service in &file.service {
                let names = service
                    .method
                    .iter()
                    .map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name()));
                methods.extend(names);
            }
        }
        let mut table: Vec<String> = TABLE.iter().map(|(path, _)| (*path).to_owned()).collect();
        methods.sort();
        table.sort();
        assert_eq!(methods, table);
        assert_eq!(access("/bulkhead.v1.JobService/Nothing"), Access::Token);
        assert_eq!(access("/grpc.health.v1.Health/Check"), Access::Public);
    }
}
