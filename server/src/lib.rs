//! The gRPC front end: authentication, quota, the public API and the workers' stream.
